"""Plain HTTP stays on loopback, unless somebody says that TLS is in front; or the server speaks TLS itself."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from steadynorm_cli.commands.healthcheck import healthcheck
from steadynorm_cli.errors import CommandError
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import StartError
from steadynorm_server.runtime.serve import serve

PROGRAM = """
import sys
from pathlib import Path
from pydantic import SecretStr
from steadynorm_server.config import ServerConfig
from steadynorm_server.runtime.serve import serve
data, host, *pair = sys.argv[1:]
more = dict(zip(("tls_cert", "tls_key"), map(Path, pair))) if pair else {"tls": "terminated"}
serve(ServerConfig(data=Path(data), host=host, port=0, viewer_token=SecretStr("viewers-of-tests"), **more))
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=steadynorm", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=60)
    return cert, key


def started(*arguments: str | Path) -> tuple[subprocess.Popen[str], str]:
    """A server process and the address that it tells."""
    server = subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    first = server.stderr.readline()
    assert first.startswith("steadynorm server at "), first + server.stderr.read()
    return server, first.split()[-1]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_plain_http_beyond_loopback_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(StartError, match=f"plain HTTP is for loopback only, .* got host {host}") as refused:
        serve(ServerConfig(data=tmp_path, host=host, port=0, operator_token=SecretStr("x" * 16)))
    assert "STEADYNORM_TLS=terminated" in str(refused.value)
    assert not (tmp_path / "redis").exists()


def test_a_proxy_that_speaks_tls_is_believed_and_browsers_are_told_to_keep_to_it(tmp_path: Path) -> None:
    server, address = started(tmp_path, "0.0.0.0")
    try:
        answer = httpx.get(f"{address}/api/v1/me", headers={"Authorization": "Bearer viewers-of-tests"})
        assert answer.json()["roles"] == ["viewer"]
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
    finally:
        server.terminate()
        server.communicate(timeout=30)


def test_the_server_speaks_tls_itself_and_its_health_check_too(
    tmp_path: Path,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cert, key = certificate
    server, address = started(tmp_path, "0.0.0.0", cert, key)
    try:
        assert address.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=cert)
        answer = httpx.get(
            f"{address}/api/v1/me", headers={"Authorization": "Bearer viewers-of-tests"}, verify=trusting
        )
        assert answer.json()["roles"] == ["viewer"]
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=10) as plain:
            plain.sendall(b"GET /api/v1/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer viewers-of-tests\r\n\r\n")
            assert not plain.recv(1000).startswith(b"HTTP/1.1 2")
        port = address.rpartition(":")[2]
        asks = {"STEADYNORM_HOST": "0.0.0.0", "STEADYNORM_PORT": port}
        monkeypatch.setenv("STEADYNORM_HOME", str(tmp_path))
        for name, value in {**asks, "STEADYNORM_TLS_CERT": str(cert), "STEADYNORM_TLS_KEY": str(key)}.items():
            monkeypatch.setenv(name, value)
        healthcheck()
        assert capsys.readouterr().out == f"https://127.0.0.1:{port} is alive\n"
        monkeypatch.delenv("STEADYNORM_TLS_CERT")  # as the health check of the image used to ask, always
        with pytest.raises(CommandError, match=f"http://127.0.0.1:{port}/healthz does not answer"):
            healthcheck()
    finally:
        server.terminate()
        server.communicate(timeout=30)


def test_a_certificate_needs_its_key(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with pytest.raises(StartError, match="belong together"):
        serve(ServerConfig(data=tmp_path, port=0, tls_cert=cert))
    with pytest.raises(StartError, match="must be a certificate and its key"):
        serve(ServerConfig(data=tmp_path, port=0, tls_cert=key, tls_key=cert))
    with pytest.raises(StartError, match="No such file"):
        serve(ServerConfig(data=tmp_path, port=0, tls_cert=tmp_path / "none.pem", tls_key=key))
