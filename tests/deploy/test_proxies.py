"""The example for nginx, run as it stands but for its addresses: server and dashboard work below their paths."""

from __future__ import annotations

import base64
import os
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import urllib3
import yaml
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from tests.support.dashboard import AGENT, OPERATOR
from tests.support.waiting import Eventually
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from steadynorm_cli.local_stack import LocalStack
from steadynorm_cli.ports import choose_port
from steadynorm_contract.client import Client
from steadynorm_contract.telemetry import Parameter, RunRegistration
from steadynorm_dashboard import launch

HOST = "tools.example.org"
PROXY_TOKEN = "dashboard-token-for-tests"
PUBLIC = {"STEADYNORM_ROOT_PATH": "/steadynorm-api", "STEADYNORM_DASHBOARD_URL": f"https://{HOST}/steadynorm"}


@dataclass
class Proxied:
    """nginx's port, and a client that takes it for the example's host."""

    server: str
    dashboard: int
    port: int
    http: urllib3.HTTPSConnectionPool
    context: ssl.SSLContext

    def get(self, path: str, **headers: str) -> urllib3.BaseHTTPResponse:
        """GET, without following."""
        return self.http.request("GET", path, headers={"Host": HOST, **headers}, redirect=False, retries=False)

    def upgrade(self, origin: str) -> str:
        """The first line of the answer to a page's websocket."""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET /steadynorm/_stcore/stream HTTP/1.1", f"Host: {HOST}", f"Origin: {origin}", "Connection: Upgrade",
            "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}",
        ]  # fmt: skip
        with (
            socket.create_connection(("127.0.0.1", self.port), 20) as plain,
            self.context.wrap_socket(plain, server_hostname=HOST) as secured,
        ):
            secured.sendall("\r\n".join([*lines, "", ""]).encode())
            return secured.recv(4096).decode("latin-1").partition("\r\n")[0]

    def page_shows(self, wanted: str, until: str, **headers: str) -> bool:
        """Whether a visitor's page has the text, before it has `until`. The headers come straight to the dashboard."""
        address = f"ws://127.0.0.1:{self.dashboard}/steadynorm/_stcore/stream"
        with connect(address, additional_headers=headers, subprotocols=[Subprotocol("streamlit")]) as page:
            page.send(BackMsg(rerun_script=ClientState()).SerializeToString())
            while True:
                message = page.recv(30)
                assert isinstance(message, bytes)
                text = message.decode("utf-8", "replace").replace("\\", "").replace("\u2060", "")  # escaped
                if wanted in text:
                    return True
                if until in text:
                    return False


@pytest.fixture(scope="module")
def proxied(root: Path, tmp_path_factory: pytest.TempPathFactory, eventually: Eventually) -> Iterator[Proxied]:
    """Server, dashboard and nginx, each a process of its own."""
    folder = tmp_path_factory.mktemp("proxied")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("STEADYNORM_", "REDIS_URL"))}
    environ |= PUBLIC | {"STEADYNORM_OPERATOR_TOKEN": OPERATOR, "STEADYNORM_AGENT_TOKEN": AGENT}
    environ |= {"STEADYNORM_TRUSTED_PROXY": "127.0.0.1", "STEADYNORM_OPERATOR_GROUPS": "ml-oncall"}
    environ |= {"STEADYNORM_PROXY_TOKEN": PROXY_TOKEN}
    crt, key = folder / "crt.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", key, "-out", crt],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    with (
        LocalStack(folder / "home", port=0, dashboard=False, environ=environ) as stack,
        pytest.MonkeyPatch.context() as given,
    ):
        given.setenv("STEADYNORM_TRUSTED_PROXY", "127.0.0.1")
        port, dashboard = (choose_port("127.0.0.1", 0, 0, print) for _ in range(2))
        argv = launch.command(port=dashboard, server=stack.server, base_path="/steadynorm", allowed_hosts=[HOST])
        text = (root / "deploy/proxy/nginx.conf").read_text("utf-8")
        for old, new in (
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("127.0.0.1:8470", stack.server.removeprefix("http://")),
            ("127.0.0.1:8501", f"127.0.0.1:{dashboard}"),
            (f"/etc/nginx/tls/{HOST}.crt", str(crt)),
            (f"/etc/nginx/tls/{HOST}.key", str(key)),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        kept = "".join(
            f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"pid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\nhttp {{\naccess_log off;\n{kept}{text}}}\n"
        )
        nginx = ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
        environ["PATH"] += ":/usr/sbin"
        with (folder / "log").open("wb") as log:
            processes = [
                subprocess.Popen(command, stdout=log, stderr=log, env=environ)
                for command in (argv, [*nginx, "-g", "daemon off;"])
            ]
        try:
            context = ssl.create_default_context(cafile=str(crt))
            pool = urllib3.HTTPSConnectionPool(
                "127.0.0.1", port, ssl_context=context, server_hostname=HOST, assert_hostname=HOST, timeout=30
            )
            made = Proxied(stack.server, dashboard, port, pool, context)
            health = f"/steadynorm{launch.HEALTH_PATH}"

            def both_answer() -> bool:
                assert [each.poll() for each in processes] == [None, None], (folder / "log").read_text()
                try:
                    return all(made.get(path).status == 200 for path in (health, "/steadynorm-api/readyz"))
                except urllib3.exceptions.HTTPError:
                    return False

            eventually(both_answer)
            yield made
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)


def test_the_server_works_below_its_path_and_names_addresses_there(proxied: Proxied) -> None:
    names = [f"model.layers.{at // 256}.block_sparse_moe.experts.{at % 256}.up_proj.weight" for at in range(60_000)]
    run = RunRegistration(name="wide", parameters=[Parameter(name, (1,), "float32") for name in names])
    agent = {"Host": HOST, "Authorization": f"Bearer {AGENT}", "Content-Type": "application/json"}
    body = msgspec.json.encode(run)
    assert len(body) > 4 << 20
    answer = proxied.http.request("POST", "/steadynorm-api/api/v1/runs", body=body, headers=agent)
    assert answer.status == 201, answer.data
    where = answer.headers["location"]
    assert re.fullmatch(r"/steadynorm-api/api/v1/runs/wide-\w+", where)
    operator = {"Authorization": f"Bearer {OPERATOR}"}
    assert proxied.get(where, **operator).json()["parameters"] == 60_000
    assert proxied.get("/steadynorm-api/openapi.json").json()["servers"] == [{"url": "/steadynorm-api"}]
    assert b"url: 'openapi.json'" in proxied.get("/steadynorm-api/docs").data  # of its own folder
    assert proxied.get("/steadynorm-api/").headers["location"] == PUBLIC["STEADYNORM_DASHBOARD_URL"]
    refused = proxied.http.request("PUT", where, headers={"Host": HOST, **operator})
    assert (refused.status, refused.headers["allow"]) == (405, "DELETE, GET, PATCH")
    assert proxied.get("/steadynorm-api/metrics", **operator).status == 404


def test_nobody_names_himself_through_the_proxy(proxied: Proxied) -> None:
    forged = {"X-Forwarded-Email": "eve@example.org", "X-Forwarded-Groups": "ml-oncall"}
    believed = urllib3.request("GET", f"{proxied.server}/api/v1/me", headers=forged)
    assert believed.json()["name"] == "eve@example.org"  # so it is the proxy that stops it
    assert proxied.get("/steadynorm-api/api/v1/me", **forged).status == 401
    named = proxied.get("/steadynorm-api/api/v1/me", Authorization=f"Bearer {OPERATOR}", **forged)
    assert named.json()["name"] == "operator"


def test_who_signed_in_at_the_proxy_is_named_by_the_dashboard_and_in_the_audit_list(proxied: Proxied) -> None:
    """nginx stands on the same address as a proxy that signs people in would; here it is this test."""
    ada = {"X-Forwarded-Email": "ada@example.org", "X-Forwarded-Groups": "ml-oncall", "X-Forwarded-For": "10.9.8.7"}
    can = "**ada@example.org** can change settings"
    assert proxied.page_shows(can, "Sign in", **ada)
    assert proxied.page_shows("has read-only access", "Sign in", **ada | {"X-Forwarded-Groups": "sales"})
    assert not proxied.page_shows("example.org** ", "Sign in", **{"X-Forwarded-For": "10.9.8.7"})
    speaker = Client(proxied.server, PROXY_TOKEN, headers=ada)
    job = Client(proxied.server, AGENT)
    urllib3.request(
        "POST", f"{proxied.server}/api/v1/runs", body=b'{"name": "named", "run_id": "named-1"}',
        headers={"Authorization": f"Bearer {AGENT}"},
    )  # fmt: skip
    assert speaker.change("named-1", {"gamma2": 0.9}, revision=0, reason="calm").revision == 1
    assert speaker.audit("named-1").entries[0].actor == "ada@example.org"
    assert job.me().name == "agent"


def test_a_proxy_may_leave_the_path_and_clients_take_an_address_with_one(proxied: Proxied) -> None:
    assert Client(f"{proxied.server}/steadynorm-api", OPERATOR).me().name == "operator"


def test_the_dashboard_works_below_its_path_and_for_its_own_name_only(proxied: Proxied) -> None:
    moved = proxied.get("/steadynorm")
    assert (moved.status, moved.headers["location"]) == (308, f"https://{HOST}:{proxied.port}/steadynorm/")
    page = proxied.get("/steadynorm/").data.decode()
    library = re.findall(r'href="(library/[^"]+)"', page)
    assert len(library) == 1
    files = [*library, *re.findall(r'(?:src|href)="\./(static/[^"]+)"', page)]
    assert len(files) >= 3
    for file in files:
        answer = proxied.get(f"/steadynorm/{file}", **{"Accept-Encoding": "identity"})
        assert answer.status == 200, file
        assert "text/html" not in answer.headers["content-type"], f"{file} is answered by the page"
    script = next(file for file in files if file.startswith("static/js/"))
    assert f'href="./{script}"' in page or f'src="./{script}"' in page
    gone = proxied.get("/steadynorm/history/nothing")
    assert "text/html" not in gone.headers["content-type"], "downloads are answered by the page"
    assert proxied.upgrade(f"https://{HOST}") == "HTTP/1.1 101 Switching Protocols"
    assert " 403 " in proxied.upgrade("https://evil.example")


@pytest.mark.parametrize("name", ["Caddyfile", "traefik.yml", "nginx.conf"])
def test_the_examples_agree(root: Path, name: str) -> None:
    text = (root / "deploy/proxy" / name).read_text("utf-8")
    for part in (HOST, "/steadynorm", "/steadynorm-api", "127.0.0.1:8470", "127.0.0.1:8501", "32", "/metrics"):
        assert part in text or (part == "32" and "33554432" in text)
    for header in ("X-Forwarded-Email", "X-Forwarded-Groups"):
        blank = {"Caddyfile": f"header_up -{header}\n", "traefik.yml": f'{header}: ""'}
        assert re.search(blank.get(name, f'proxy_set_header {header} +"";'), text)
    if name.endswith("yml"):
        routing = yaml.safe_load(text)["http"]
        for router in routing["routers"].values():
            assert router["service"] in routing["services"]
            assert set(router["middlewares"]) <= set(routing["middlewares"])
