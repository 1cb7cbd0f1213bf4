"""The server as a process: it says where it is, answers over a socket, and stops at once when told to."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from fastapi import FastAPI
from tests.support.server_process import PROGRAM, server_process, stop

from steadynorm_contract.client import Client, Conflict, InvalidChange, NotFound
from steadynorm_contract.codec import encode_batch, encode_json
from steadynorm_contract.discovery import ServerAddress
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import StartError
from steadynorm_server.runtime import workers
from steadynorm_server.runtime.serve import _Server, serve


def test_one_user_needs_no_copying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_agent: Any) -> None:
    for name in ("STEADYNORM_SERVER", "STEADYNORM_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STEADYNORM_HOME", str(tmp_path))
    with server_process(tmp_path) as (server, announced):
        address = announced[0].split()[-1]
        token = (tmp_path / "token").read_text().strip()
        assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
        assert msgspec.json.decode((tmp_path / "server.json").read_bytes(), type=ServerAddress) == ServerAddress(
            address, "http://127.0.0.1:8471"
        )
        client = Client()
        assert client.runs().runs == []
        with pytest.raises(NotFound, match="run 'nothing' does not exist"):
            client.run("nothing")

        agent = make_agent(None)
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"{address}/api/v1", headers=headers) as http:
            assert http.post("/runs", content=encode_json(agent.registration)).status_code == 201
            sent = http.post("/runs/tiny-1/telemetry", content=encode_batch(agent.batch(1, [1, 2, 3])))
            assert sent.status_code == 200
        assert client.run("tiny-1").counters.steps == 3
        assert client.series("tiny-1", ["loss"]).series["loss"].count == [1, 1, 1]
        assert client.change("tiny-1", {"gamma2": 0.9}, revision=0, reason="why not").revision == 1
        with pytest.raises(Conflict):
            client.change("tiny-1", {"gamma2": 0.8}, revision=0)
        with pytest.raises(InvalidChange) as refused:
            client.change("tiny-1", {"gamma2": 2.0}, revision=1)
        assert refused.value.errors[0].field == "gamma2"
        assert client.audit("tiny-1").entries[0].reason == "why not"

        assert f"http://127.0.0.1:8471/?token={token}" in announced[1]
        assert announced[-1] == f"API        {address}/docs"
        assert stop(server)[0] == ""
        assert server.returncode == 0
        assert not (tmp_path / "server.json").exists()
    # A restart locks nobody out and forgets nothing.
    with server_process(tmp_path) as (server, announced):
        address = announced[0].split()[-1]
        assert Client(address, token).run("tiny-1").counters.steps == 3
        assert stop(server, signal.SIGINT)[0] == ""
        assert server.returncode == 0


def test_a_server_drains_before_its_port_closes(tmp_path: Path, eventually: Any) -> None:
    with server_process(tmp_path, STEADYNORM_DRAIN_SECONDS="600") as (server, announced):
        address = announced[0].split()[-1]
        assert httpx.get(f"{address}/readyz").status_code == 200
        server.send_signal(signal.SIGTERM)
        eventually(lambda: httpx.get(f"{address}/readyz").status_code == 503)
        ready = httpx.get(f"{address}/readyz")
        assert ready.json()["detail"] == "this server is about to stop: use another one."
        assert httpx.get(f"{address}/healthz").status_code == 200  # a new connection
        headers = {"Authorization": f"Bearer {(tmp_path / 'token').read_text().strip()}"}
        assert httpx.get(f"{address}/api/v1/runs", headers=headers).status_code == 200
        stop(server)  # a second signal ends the drain
        assert server.returncode == 0


async def test_a_drain_ends_by_itself_and_ctrl_c_has_none() -> None:
    app = FastAPI()
    for sign, drains in ((signal.SIGTERM, True), (signal.SIGINT, False)):
        server = _Server(uvicorn.Config(app), app, lambda: None, 5.0)
        server.started = True
        server.handle_exit(sign, None)
        assert server.should_exit is not drains
        assert await server.on_tick(1) is not drains
    server = _Server(uvicorn.Config(app), app, lambda: None, 1e-9)
    server.started = True
    server.handle_exit(signal.SIGTERM, None)
    assert await server.on_tick(1)


def test_a_large_body_is_refused_over_a_socket(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(50_000)

    with server_process(tmp_path) as (_, announced):
        address = announced[0].split()[-1]
        headers = {"Authorization": f"Bearer {(tmp_path / 'token').read_text().strip()}"}
        with httpx.Client(base_url=f"{address}/api/v1", headers=headers, timeout=60) as http:
            assert http.post("/runs/x/telemetry", content=bytes(5_000_000)).status_code == 413
        with httpx.Client(base_url=f"{address}/api/v1", headers=headers, timeout=60) as http:
            assert http.post("/runs/x/telemetry", content=parts()).status_code == 413
            assert http.get("/runs").status_code == 200


def test_a_second_server_on_one_folder_is_refused(tmp_path: Path) -> None:
    with server_process(tmp_path) as (server, announced):
        address = announced[0].split()[-1]
        second = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode == 1
        assert f"another server (process {server.pid}) uses the data" in second.stderr
        assert httpx.get(f"{address}/readyz").status_code == 200
        assert (tmp_path / "server.json").exists()


def test_configured_tokens_and_store_are_used(tmp_path: Path, empty_valkey: str) -> None:
    with server_process(tmp_path, STEADYNORM_VIEWER_TOKEN="viewers-of-tests", REDIS_URL=empty_valkey) as (_, announced):
        address = announced[0].split()[-1]
        assert not (tmp_path / "token").exists()
        assert not (tmp_path / "redis").exists()
        assert (
            httpx.get(f"{address}/api/v1/runs", headers={"Authorization": "Bearer viewers-of-tests"}).status_code == 200
        )
        assert httpx.get(f"{address}/api/v1/runs").status_code == 401


def test_an_open_address_without_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"loopback only: got host 0\.0\.0\.0\. Set STEADYNORM_OPERATOR_TOKEN"):
        serve(ServerConfig(data=tmp_path, host="0.0.0.0", port=0))
    assert not (tmp_path / "token").exists()


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use. Stop"):
            serve(ServerConfig(data=tmp_path, port=port))


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"file: File exists\. Choose another folder"):
        serve(ServerConfig(data=tmp_path / "file", port=0))


def test_with_a_redis_and_tokens_of_its_own_it_needs_no_folder(empty_valkey: str) -> None:
    nowhere = Path("/proc/nothing")  # not even root makes a folder there, as in a container whose root is read-only
    tokens = {f"STEADYNORM_{role}_TOKEN": f"the-{role}-token-of-tests" for role in ("OPERATOR", "AGENT")}
    home = {"HOME": str(nowhere), "STEADYNORM_HOME": str(nowhere)}
    with server_process(nowhere, REDIS_URL=empty_valkey, **home, **tokens) as (server, announced):
        assert httpx.get(f"{announced[0].split()[-1]}/readyz").status_code == 200
        assert stop(server)[0] == ""
        assert server.returncode == 0
    with pytest.raises(StartError, match=r"/proc/nothing: .*Choose another folder"):
        serve(ServerConfig(data=nowhere, port=0))


def test_several_workers_without_a_folder_for_temporary_files_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: iter(["a"]))
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nothing")
    with pytest.raises(StartError, match="Mount one at /tmp"), workers._metrics_folder():
        pass


def test_what_kubernetes_says_about_a_service_of_our_name_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYNORM_PORT", "tcp://10.3.104.46:8470")
    assert ServerConfig().port == 8470


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STEADYNORM_HOME", str(tmp_path))
    monkeypatch.setenv("STEADYNORM_PORT", "9000")
    monkeypatch.setenv("REDIS_URL", "redis://plain")
    settings = ServerConfig()
    assert (settings.data, settings.port, settings.redis_url) == (tmp_path, 9000, "redis://plain")
    monkeypatch.setenv("STEADYNORM_REDIS_URL", "redis://own")
    assert ServerConfig().redis_url == "redis://own"
    monkeypatch.setenv("STEADYNORM_REDIS_URL", "")
    monkeypatch.setenv("REDIS_URL", "")
    assert ServerConfig().redis_url is None
    assert ServerConfig(port=1).port == 1


def test_the_server_never_loads_torch() -> None:
    program = "import sys, steadynorm_server.runtime.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
