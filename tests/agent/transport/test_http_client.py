"""What each answer of a server means, and how a request is ended from outside."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
from collections.abc import Iterator
from email.utils import formatdate
from time import time
from typing import TYPE_CHECKING

import pytest

from steadynorm.mailbox import InvalidSettings
from steadynorm.transport.backoff import Backoff
from steadynorm.transport.http_client import (
    BatchRejected,
    HttpClient,
    RequestRejected,
    RunNotFound,
    ServerUnavailable,
    StaleIncarnation,
    TransportError,
    VersionRejected,
)
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import Desired, RunRegistration

if TYPE_CHECKING:
    from tests.support.agent import StubServer


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, b"", BatchRejected),
        (
            400,
            b'{"title": "", "status": 400, "detail": "", "type": "urn:steadynorm:problem:unsupported-version"}',
            VersionRejected,
        ),
        (413, b"<html>", BatchRejected),
        (400, b'{"title": "", "status": 400, "detail": "schema version 9 is not supported"}', VersionRejected),
        (401, b"", RequestRejected),
        (403, b"", RequestRejected),
        (404, b"", RunNotFound),
        (409, b"", StaleIncarnation),
        (422, b"", BatchRejected),
        (429, b"", ServerUnavailable),
        (500, b"", ServerUnavailable),
        (503, b"", ServerUnavailable),
        (302, b"", RequestRejected),
        (200, b"not JSON", RequestRejected),
        (200, b'{"acknowledged": 1}', RequestRejected),
    ],
)
def test_an_answer_becomes_the_error_that_says_what_to_do(
    stub: StubServer, status: int, body: bytes, error: type[TransportError]
) -> None:
    stub.fault = lambda method, path, sent: (status, body, {"Location": "http://127.0.0.1:1/api/v1/x"})
    with pytest.raises(error) as record:
        HttpClient(stub.url).send("r", b"")
    assert type(record.value) is error
    assert ("redirects to http://127.0.0.1:1." in str(record.value)) is (status == 302)
    assert len(stub.requests) == 1  # no redirect is followed, nothing is retried here


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("date", 100.0), ("soon", None), ("Mon, 99", None), ("", None)],
)
def test_retry_after_is_read_in_both_forms(stub: StubServer, value: str, seconds: float | None) -> None:
    header = formatdate(time() + 100) if value == "date" else value
    stub.fault = lambda method, path, sent: (503, b"", {"Retry-After": header})
    with pytest.raises(ServerUnavailable) as record:
        HttpClient(stub.url).send("r", b"")
    if seconds is None:
        assert record.value.retry_after_s is None
    else:
        assert record.value.retry_after_s == pytest.approx(seconds, abs=5)


def test_an_unresolvable_or_closed_address_is_unreachable() -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        for server in (f"http://127.0.0.1:{bound.getsockname()[1]}", "http://no-such-host.invalid"):
            with pytest.raises(ServerUnavailable):
                HttpClient(server).send("r", b"")


def test_a_request_under_way_can_be_ended_by_another_thread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport = HttpClient(f"http://127.0.0.1:{server.getsockname()[1]}")
        errors: list[Exception] = []

        def ask() -> None:
            try:
                transport.poll("r", 0, 60)
            except TransportError as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        connection, _ = server.accept()
        connection.recv(10)  # the request is there: the answer is being waited for
        transport.abort()
        thread.join(20)
        assert not thread.is_alive()
        assert [type(error) for error in errors] == [ServerUnavailable]
        with pytest.raises(ServerUnavailable):
            transport.send("r", b"")
        connection.close()


def test_polling_gives_only_news(stub: StubServer) -> None:
    transport = HttpClient(stub.url, "secret")
    transport.register(RunRegistration(name="r", run_id="r"))
    assert transport.poll("r", 0, 0) is None
    stub.fault = lambda method, path, sent: (204, b"", {})
    assert transport.poll("r", 0, 0) is None
    stub.fault = lambda method, path, sent: (200, b'{"revision": 3, "settings": {"gamma1": 0.5}}', {})
    assert transport.poll("r", 2, 0) == Desired(3, Settings(gamma1=0.5))
    assert transport.poll("r", 3, 0) is None


def test_settings_that_cannot_be_read_are_news_all_the_same(stub: StubServer) -> None:
    stub.fault = lambda method, path, sent: (200, b'{"revision": 9, "settings": {"gamma1": 7}}', {})
    offer = HttpClient(stub.url).poll("r", 2, 0)
    assert isinstance(offer, InvalidSettings)
    assert offer.revision == 9
    assert "gamma1 must be in [0, 1): got 7" in offer.reason


def test_waits_grow_and_differ_and_obey_the_server() -> None:
    backoff = Backoff(1.0, 30.0)
    waits = [backoff.next_s() for _ in range(12)]
    for attempt, wait in enumerate(waits):
        whole = min(30.0, 2.0**attempt)
        assert whole / 2 <= wait <= whole
    assert len(set(waits)) == 12
    assert 20.0 <= Backoff(1.0, 2.0).next_s(retry_after_s=20.0) <= 22.0
    assert Backoff(1.0, 2.0).next_s(retry_after_s=1e9) <= 330
    assert 15.0 <= backoff.slow_s() <= 30.0
    backoff.reset()
    assert backoff.next_s() <= 1.0


def answering(parts: Iterator[bytes]) -> tuple[str, threading.Event]:
    """A server that answers one request with these bytes, and an event that is set when it has ended."""
    listener, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def answer() -> None:
        with listener, contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                for part in parts:
                    connection.sendall(part)
        ended.set()

    threading.Thread(target=answer, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", ended


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("packed", [False, True])
def test_a_response_without_end_is_cut_before_it_takes_the_memory(packed: bool) -> None:
    sent: list[int] = []
    bomb = gzip.compress(bytes(20_000_000), 1)

    def huge() -> Iterator[bytes]:
        if packed:
            yield HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
            return
        yield HEAD + b"Content-Length: 1000000000\r\n\r\n"
        for _ in range(1000):
            sent.append(1_000_000)
            yield b" " * 1_000_000

    address, ended = answering(huge())
    with pytest.raises(RequestRejected, match="another server"):
        HttpClient(address).send("r", b"")
    assert ended.wait(20)
    assert sum(sent) < 50_000_000


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (HEAD + b"Content-Length: 100000\r\n\r\n", b" "),
        (HEAD + b"X-Long: ", b"x"),
        (b"HTTP/1.1", b" "),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
    ids=["body", "headers", "status", "informational", "chunks"],
)
def test_a_response_that_comes_bit_by_bit_has_an_end(begin: bytes, drop: bytes) -> None:
    def drops() -> Iterator[bytes]:
        yield begin
        while not over.wait(0.05):
            yield drop

    over = threading.Event()
    address, ended = answering(drops())
    errors: list[Exception] = []

    def send() -> None:
        try:
            HttpClient(address).send("r", b"", 0.2)
        except TransportError as error:
            errors.append(error)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    sending.join(20)
    over.set()
    assert ended.wait(20)
    assert [(type(error), str(error)) for error in errors] == [
        (ServerUnavailable, "the response did not end within 0.4 s")
    ]


def test_an_error_whose_text_is_no_text_is_still_the_servers(stub: StubServer) -> None:
    stub.fault = lambda method, path, sent: (503, b'{"title": "\xff\xfe", "status": 503, "detail": ""}', {})
    with pytest.raises(ServerUnavailable, match="status 503"):
        HttpClient(stub.url).send("r", b"")


def test_a_connection_is_used_again_after_a_response(stub: StubServer) -> None:
    client = HttpClient(stub.url)
    for _ in range(3):
        client.register(RunRegistration(name="r", run_id="r"))
    assert len(client._connections._open) == 1
    assert len(stub._open) == 1
