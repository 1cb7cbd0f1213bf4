"""An agent whose server speaks TLS: the same calls, on one connection, which another thread ends."""

from __future__ import annotations

import ssl
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from steadynorm.transport.http_client import HttpClient, ServerUnavailable
from steadynorm_contract.telemetry import RunRegistration

if TYPE_CHECKING:
    from tests.support.agent import StubServer


@pytest.fixture
def tls_url(stub: StubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The stub's address, with a certificate that this process trusts."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=steadynorm", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=60)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    stub._server.socket = context.wrap_socket(stub._server.socket, server_side=True)
    return stub.url.replace("http:", "https:")


def test_an_agent_talks_to_a_server_with_tls(stub: StubServer, tls_url: str) -> None:
    client = HttpClient(tls_url, "token")
    connections: set[int] = set()

    def note(method: str, path: str, body: bytes) -> None:
        connections.add(threading.get_ident())  # a thread for each connection

    stub.fault = note
    state, _ = client.register(RunRegistration(name="r", run_id="r", config={"text": "x" * 200_000}))
    assert state.incarnation == 1
    assert client.poll("r", 0, 0) is None
    assert [path for _, path, *_ in stub.requests] == ["/runs", "/runs/r/settings"]
    assert len(connections) == 1
    client.close()


def test_a_request_over_tls_is_ended_by_another_thread(stub: StubServer, tls_url: str) -> None:
    asked, answers = threading.Event(), threading.Event()

    def hang(method: str, path: str, body: bytes) -> None:
        asked.set()
        answers.wait(30)

    stub.fault = hang
    client = HttpClient(tls_url, "token")

    def end() -> None:
        asked.wait(30)
        client.abort()

    ends = threading.Thread(target=end)
    ends.start()
    try:
        with pytest.raises(ServerUnavailable) as aborted:
            client.poll("r", 0, 30)
        assert "Timeout" not in str(aborted.value)
    finally:
        asked.set()
        answers.set()
        ends.join()


def test_a_connection_that_is_ended_stays_encrypted(stub: StubServer, tls_url: str) -> None:
    client = HttpClient(tls_url, "token")
    client.register(RunRegistration(name="r", run_id="r"))
    (connection,) = client._connections._open
    assert isinstance(connection.sock, ssl.SSLSocket)
    client.abort()
    assert connection.sock.version() is not None, "what its own thread sends now would be plain text"
    client.close()
