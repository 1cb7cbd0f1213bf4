"""Each answer's status is an error of its own, and carries what the server said."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import msgspec
import pytest

from steadynorm_contract.audit import AuditList
from steadynorm_contract.bulk import Bulk, Selection
from steadynorm_contract.client import (
    Client,
    ClientError,
    Conflict,
    Forbidden,
    InvalidChange,
    NotFound,
    OutcomeUnknown,
    ServerUnreachable,
    Unauthorized,
)
from steadynorm_contract.codec import encode_json
from steadynorm_contract.problems import Problem
from steadynorm_contract.runs import RunList
from steadynorm_contract.series import SeriesResponse
from steadynorm_contract.settings import FieldError, Settings
from steadynorm_contract.telemetry import Desired
from steadynorm_contract.watch_rules import Comparison, Condition, WatchRule


class Recorder(BaseHTTPRequestHandler):
    """Answers what it was told to, remembers what it was asked."""

    status: ClassVar[int] = 200
    body: ClassVar[bytes] = b""
    kind: ClassVar[str] = "application/json"
    to: ClassVar[str] = ""
    seen: ClassVar[list[tuple[str, str, dict[str, str], bytes]]] = []

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.command, self.path, dict(self.headers), sent))
        self.send_response(self.status)
        self.send_header("Content-Type", self.kind)
        if self.to:
            self.send_header("Location", self.to + self.path)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_PATCH = do_DELETE = _answer  # noqa: N815 - names of http.server

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a Recorder."""
    Recorder.seen.clear()
    Recorder.status, Recorder.body, Recorder.kind, Recorder.to = 200, b"", "application/json", ""
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.005,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    """A client with a token."""
    made = Client(server + "/", "secret")
    yield made
    made._pool.clear()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (412, Conflict),
        (422, InvalidChange),
        (409, ClientError),
        (503, OutcomeUnknown),
    ],
)
def test_a_problem_becomes_the_error_of_its_status(client: Client, status: int, kind: type[ClientError]) -> None:
    errors = [FieldError("gamma2", "must be in [0, 1)", "gamma2 must be in [0, 1): got 2.")]
    Recorder.status = status
    Recorder.body = encode_json(Problem(title="No", status=status, detail="because of this", errors=errors))
    with pytest.raises(ClientError, match="because of this") as raised:
        client.change("tiny-1", {"gamma2": 2}, revision=0)
    assert type(raised.value) is kind
    assert raised.value.problem is not None
    assert raised.value.problem.status == status
    if isinstance(raised.value, InvalidChange):
        assert raised.value.errors == errors


def test_an_answer_that_is_no_problem_is_told_by_its_status(client: Client) -> None:
    Recorder.status, Recorder.body = 502, b"<html>bad gateway</html>"
    with pytest.raises(ClientError, match="answered 502 to GET /runs") as raised:
        client.runs()
    assert raised.value.problem is None


def test_an_answer_of_another_shape_is_told(client: Client) -> None:
    Recorder.body = b'{"walks": []}'
    with pytest.raises(ClientError, match=r"not a RunList.*Are client and server of the same version"):
        client.runs()


def test_a_web_page_and_a_server_of_plain_http_are_no_servers_and_said_to_be_what_they_are(client: Client) -> None:
    Recorder.body, Recorder.kind = b"<html>", "text/html; charset=utf-8"
    with pytest.raises(
        ClientError, match=r"there is no steadynorm server at \S+: it answered with a web page\. A dashb"
    ):
        client.runs()
    with pytest.raises(
        ServerUnreachable, match=r"\(SSLError\)\. Its certificate is not accepted here, or it speaks http"
    ):
        Client(client.server.replace("http:", "https:"), timeout_s=5).runs()


def test_a_redirect_is_told_with_its_address_and_is_the_answer_of_a_write_too(client: Client) -> None:
    Recorder.status, Recorder.body, Recorder.kind, Recorder.to = 301, b"<html>", "text/html", "https://train.example"
    for ask in (client.runs, lambda: client.change("r", {"gamma2": 0.9}, revision=1)):
        with pytest.raises(ClientError, match=r"redirects to https://train\.example: is that") as raised:
            ask()
        assert type(raised.value) is ClientError, "nothing was changed"
    assert len(Recorder.seen) == 2


@pytest.mark.parametrize("token", ["two\n", "\u65e5\u672c", "\udcff", "a\tb"])
def test_a_token_that_no_header_can_hold_is_refused_before_it_is_sent(server: str, token: str) -> None:
    with pytest.raises(Unauthorized, match="token must be printable Latin-1") as raised:
        Client(server, token)
    assert token not in str(raised.value)


def test_nobody_there_says_how_to_start_one() -> None:
    import socket

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ServerUnreachable, match=rf"{address}.*Start one with: steadynorm up"):
            Client(address, timeout_s=5).runs()


def test_requests_carry_token_revision_and_quoted_names(client: Client) -> None:
    Recorder.body = encode_json(Desired(4, Settings()))
    assert client.change("a/b", {"gamma2": 0.9}, revision=3, reason="why").revision == 4
    method, path, headers, sent = Recorder.seen[-1]
    assert (method, path) == ("PATCH", "/api/v1/runs/a%2Fb/settings")
    assert headers["Authorization"] == "Bearer secret"
    assert headers["If-Match"] == '"3"'
    assert msgspec.json.decode(sent) == {"settings": {"gamma2": 0.9}, "reason": "why"}

    Recorder.body = encode_json(SeriesResponse({}))
    client.series("tiny-1", ["loss", "raw_norm/a.b"], start=5, points=10)
    assert Recorder.seen[-1][1] == "/api/v1/runs/tiny-1/series?name=loss&name=raw_norm%2Fa.b&from=5&points=10"

    Recorder.body = encode_json(AuditList([]))
    client.audit("tiny-1", limit=5)
    assert Recorder.seen[-1][1] == "/api/v1/runs/tiny-1/audit?limit=5"
    client.audit("tiny-1", limit=5, verify=True)
    assert Recorder.seen[-1][1] == "/api/v1/runs/tiny-1/audit?limit=5&verify=true"

    Recorder.body = encode_json(RunList([]))
    assert client.runs() == RunList([])
    Recorder.status, Recorder.body = 204, b""
    client.delete("tiny-1")
    assert Recorder.seen[-1][:2] == ("DELETE", "/api/v1/runs/tiny-1")


def test_after_a_request_was_sent_no_message_claims_that_it_was_not_carried_out(client: Client) -> None:
    late = threading.Event()

    class Late(BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            late.wait(10.0)

        do_GET = do_PATCH  # noqa: N815 - names of http.server

    with ThreadingHTTPServer(("127.0.0.1", 0), Late) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.005,))
        thread.start()
        slow = Client(f"http://127.0.0.1:{httpd.server_port}", "secret", timeout_s=0.2)
        with pytest.raises(ServerUnreachable, match="may have been carried out") as unsure:
            slow.change("tiny-1", {"gamma2": 0.9}, revision=0)
        with pytest.raises(ServerUnreachable, match="try again") as read:
            slow.runs()
        late.set()
        httpd.shutdown()
        thread.join()
    with pytest.raises(ServerUnreachable, match="steadynorm up") as unsent:
        slow.change("tiny-1", {"gamma2": 0.9}, revision=0)
    assert [each.value.outcome_unknown for each in (unsure, read, unsent)] == [True, False, False]
    assert [each.value.timed_out for each in (unsure, read, unsent)] == [True, True, False]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_would_make_null_of_is_not_sent(client: Client, value: float) -> None:
    """Null stands for `off`: a change to NaN would turn the setting off."""
    rule = WatchRule(id="a", when=Condition(scalar="loss", comparison=Comparison.ABOVE, value=value), settings={})
    for send in (
        lambda: client.change("tiny-1", {"spike_limit": value}, revision=0),
        lambda: client.change("tiny-1", {"knobs": {"spike_limit": value}}, revision=0),
        lambda: client.bulk_change(Bulk(select=Selection(name="*"), settings={"spike_limit": value})),
        lambda: client.set_rules("tiny-1", [rule]),
    ):
        with pytest.raises(InvalidChange, match="must be a finite number: got") as refused:
            send()
        assert refused.value.errors[0].field in ("spike_limit", "value")
    assert Recorder.seen == []
