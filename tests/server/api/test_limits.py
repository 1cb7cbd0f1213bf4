"""Rates and deadlines: who is fast is slowed, who floods is told to wait, who sends nothing does not stay."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from steadynorm.transport.http_client import LONGEST_PACE_S, HttpClient, ServerUnavailable
from steadynorm_contract.codec import encode_batch
from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.auth.rate_limit import BURST_S, LONGEST_WAIT_S, RateLimiter
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import ProblemError
from steadynorm_server.runtime.serve import uvicorn_options

AGENT = Principal("fleet", frozenset({Role.AGENT}))
VIEWER = Principal("team", frozenset({Role.VIEWER}))


class Watch:
    """A monotonic clock that is moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_agent_at_its_rate_never_waits() -> None:
    watch = Watch()
    rates = RateLimiter(50, 0, watch)
    for _ in range(1000):
        assert rates.reserve(AGENT, "run") == 0
        watch.now += 1 / 50


def test_an_agent_that_sends_one_after_another_is_slowed_to_its_rate_and_never_refused() -> None:
    watch = Watch()
    rates = RateLimiter(50, 0, watch)
    began = watch.now
    for _ in range(1000):
        watch.now += rates.reserve(AGENT, "run") + 0.001
    assert watch.now - began == pytest.approx(1000 / 50 - BURST_S, rel=0.02)


def test_a_flood_is_refused_with_the_time_to_wait_and_passes() -> None:
    watch = Watch()
    rates = RateLimiter(50, 0, watch)

    def flood() -> None:
        for _ in range(1000):
            rates.reserve(AGENT, "run")

    with pytest.raises(ProblemError) as refused:
        flood()
    assert refused.value.status == 429
    assert "more than 50 requests a second about run 'run'" in refused.value.detail
    assert int(refused.value.headers["Retry-After"]) >= LONGEST_WAIT_S
    assert rates.reserve(AGENT, "another") == 0  # a flood about one run is not held against the fleet's others
    watch.now += BURST_S + LONGEST_WAIT_S + 0.1
    assert rates.reserve(AGENT, "run") == 0


def test_people_share_a_token_and_look_at_one_run() -> None:
    rates = RateLimiter(1, 0, Watch())
    assert [rates.reserve(VIEWER, "run") for _ in range(500)] == [0] * 500


def test_a_token_has_a_rate_of_its_own_whatever_runs_it_names() -> None:
    rates = RateLimiter(0, 100, Watch())

    def flood() -> None:
        for number in range(1000):
            rates.reserve(AGENT, f"run-{number}")

    with pytest.raises(ProblemError, match="requests a second with this token"):
        flood()
    assert rates.reserve(VIEWER, None) == 0


def test_what_is_remembered_does_not_grow_with_invented_runs() -> None:
    watch = Watch()
    rates = RateLimiter(50, 0, watch)
    for number in range(50_000):
        watch.now += 0.001
        rates.reserve(AGENT, f"run-{number}")
    assert len(rates._due) <= 10_001


async def test_a_slowed_agent_loses_nothing(serve: Any, tmp_path: Path, make_agent: Any) -> None:
    tokens = Tokens.configured(
        ServerConfig(
            data=tmp_path, agent_token=SecretStr("a-fast-agents-own"), viewer_token=SecretStr("viewers-of-tests")
        )
    )
    client = await serve(tokens, rate_per_run=40.0)
    client.headers["Authorization"] = "Bearer a-fast-agents-own"
    agent = make_agent(client)
    await agent.register()
    began = time.monotonic()
    for step in range(100):
        await agent.send([step])  # raises unless it is taken
    assert time.monotonic() - began > 100 / 40 - BURST_S - 0.1
    responses = await asyncio.gather(*(client.get("/runs/tiny-1/settings") for _ in range(200)))
    refused = [answer for answer in responses if answer.status_code == 429]
    assert refused
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    shown = await client.get("/runs/tiny-1", headers={"Authorization": "Bearer viewers-of-tests"})
    assert shown.json()["counters"]["steps"] == 100


PROGRAM = """
import sys
from pathlib import Path
from steadynorm_server.config import ServerConfig
from steadynorm_server.runtime.serve import serve
serve(ServerConfig(data=Path(sys.argv[1]), port=0, request_within_s=1.5, rate_per_token=float(sys.argv[2])))
"""


@contextlib.contextmanager
def impatient(data: Path, rate: float = 0) -> Iterator[tuple[int, str]]:
    """A server that waits half a second for a head and 1.5 s for a body: its port and its token."""
    server = subprocess.Popen([sys.executable, "-c", PROGRAM, data, str(rate)], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        port = int(server.stderr.readline().rpartition(":")[2])
        yield port, (data / "token").read_text("ascii").strip()
    finally:
        server.terminate()
        server.communicate(timeout=30)


@pytest.fixture(scope="module")
def impatient_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    with impatient(tmp_path_factory.mktemp("impatient")) as found:
        yield found


def said_until_closed(port: int, data: bytes, drip: bytes = b"") -> tuple[bytes, float]:
    """What the server says to `data`, followed by a byte every tenth of a second, and when it closed, in seconds."""
    began, said = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", port), timeout=0.1) as connection:
        connection.sendall(data)
        while time.monotonic() - began < 20:
            try:
                if not (part := connection.recv(4096)):
                    break
                said += part
            except TimeoutError:
                with contextlib.suppress(OSError):
                    connection.sendall(drip)
            except ConnectionError:
                break
    return said, time.monotonic() - began


@pytest.mark.parametrize(
    ("data", "drip"),
    [
        (b"", b""),
        (b"GET /", b"a"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ", b"a"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTT", b"P"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", b"a"),
    ],
    ids=["nothing", "byte by byte", "a header without end", "after a good request", "a body that nobody reads"],
)
def test_a_connection_that_does_not_finish_a_request_is_closed(
    impatient_server: tuple[int, str], data: bytes, drip: bytes
) -> None:
    said, seconds = said_until_closed(impatient_server[0], data, drip)
    assert seconds < 6
    assert not said or said.startswith((b"HTTP/1.1 408", b"HTTP/1.1 200"))


def test_a_body_that_does_not_arrive_is_told_so(impatient_server: tuple[int, str]) -> None:
    port, token = impatient_server
    head = f"POST /api/v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 1000\r\n\r\n"
    said, seconds = said_until_closed(port, head.encode(), b"a")
    assert said.startswith(b"HTTP/1.1 408")
    assert b"the body did not arrive within 1.5 s" in said
    assert 1 < seconds < 6


def test_a_head_without_end_is_refused_before_it_fills_memory(impatient_server: tuple[int, str]) -> None:
    said, seconds = said_until_closed(impatient_server[0], b"GET / HTTP/1.1\r\nX-A: " + b"a" * 200_000)
    assert not said or said.startswith(b"HTTP/1.1 431")
    assert seconds < 6


def test_a_head_of_many_small_lines_is_refused_too(impatient_server: tuple[int, str]) -> None:
    head = b"GET / HTTP/1.1\r\n" + b"X-A: a\r\n" * 20_000
    said, seconds = said_until_closed(impatient_server[0], head, b"X-A: a\r\n")
    assert not said or said.startswith(b"HTTP/1.1 431")
    assert seconds < 6


def test_connections_outlive_the_pauses_of_agents_and_proxies() -> None:
    kept = uvicorn_options(ServerConfig(), FastAPI()).timeout_keep_alive
    assert kept > max(LONGEST_PACE_S, 90.0)


def test_what_is_no_http_is_refused_at_once(impatient_server: tuple[int, str]) -> None:
    said, seconds = said_until_closed(impatient_server[0], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")  # TLS
    assert said.startswith(b"HTTP/1.1 400")
    assert seconds < 1


def test_200_half_open_connections_do_not_keep_a_client_out(impatient_server: tuple[int, str]) -> None:
    port, token = impatient_server
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            connection.sendall(b"POST /api/v1/runs HTTP/1.1\r\nX-A: ")
        began = time.monotonic()
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/me", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200
        assert time.monotonic() - began < 2


def test_an_agent_takes_429_for_later(tmp_path: Path, make_agent: Any) -> None:
    with impatient(tmp_path, rate=0.1) as (port, token):
        transport = HttpClient(f"http://127.0.0.1:{port}", token)
        agent = make_agent(None)
        transport.register(agent.registration)  # the next one may come in 8 seconds
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"http://127.0.0.1:{port}/api/v1/me", headers=headers).status_code == 429
        with pytest.raises(ServerUnavailable) as later:
            transport.send("tiny-1", encode_batch(agent.batch(1, [1])))
        assert later.value.retry_after_s is not None
        assert later.value.retry_after_s >= 1
        transport.close()
