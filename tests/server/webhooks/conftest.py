"""A receiver of webhooks on loopback, and mailers as server processes have them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from steadynorm_contract.webhooks import WebhookMessage, verify
from steadynorm_server.redis.keys import WebhookKeys
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.webhooks.config import Webhook
from steadynorm_server.webhooks.dispatcher import DispatchIntervals, WebhookDispatcher

SECRET = b"a-secret-of-the-tests"
HURRY = DispatchIntervals(look_s=0.02, sweep_s=0.04, lease_s=10.0, gather_s=0.04, again_s=0.05)


@dataclass
class Post:
    """What came in one request."""

    at: float
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> WebhookMessage:
        return msgspec.json.decode(self.body, type=WebhookMessage)

    @property
    def id(self) -> str:
        return self.headers["steadynorm-id"]

    @property
    def genuine(self) -> bool:
        """Whether the signature is good, and is no longer if the body is another one."""
        header = self.headers["steadynorm-signature"]
        return verify(header, self.body, SECRET) and not verify(header, self.body + b" ", SECRET)


@dataclass
class Receiver:
    """An HTTP server on loopback. `answers`: what it says to the next requests, 0 for nothing at all; then 200."""

    responses: list[int] = field(default_factory=list)
    head: str = ""
    url: str = ""
    posts: asyncio.Queue[Post] = field(default_factory=asyncio.Queue)

    async def next(self) -> Post:
        """The next request."""
        return await asyncio.wait_for(self.posts.get(), 15)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:-2]
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                self.posts.put_nowait(Post(time.monotonic(), headers, body))
                if not (status := self.responses.pop(0) if self.responses else 200):
                    await reader.read()  # until the other side gives up
                    break
                writer.write(f"HTTP/1.1 {status} As told\r\nContent-Length: 0\r\n{self.head}\r\n".encode())
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    yield receiver
    server.close()


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """Address of an empty store. One kind is enough here; the cluster's tests have the other."""
    return empty_valkey


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that takes everything."""
    async with receiving() as started:
        yield started


@pytest.fixture
async def elsewhere() -> AsyncIterator[Receiver]:
    """Another one."""
    async with receiving() as started:
        yield started


@pytest.fixture
def webhook(receiver: Receiver, tmp_path: Path) -> Callable[..., Webhook]:
    """webhook(**what differs) -> a webhook that goes to the receiver."""
    (tmp_path / "secret").write_bytes(SECRET + b"\n")

    def make(**changes: Any) -> Webhook:
        given = {"name": "on-call", "url": receiver.url, "secret_file": tmp_path / "secret", "interval_s": 0.0}
        return Webhook(**{**given, **changes})

    return make


class Sending:
    """A mailer as one server process has it."""

    def __init__(self, url: str, webhooks: list[Webhook], pace: DispatchIntervals, dashboard_url: str | None) -> None:
        self.registry = CollectorRegistry()
        self.repository = RunRepository(url)
        self.mailer = WebhookDispatcher(self.repository, webhooks, dashboard_url, self.registry, pace)
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> Sending:
        await self._stack.enter_async_context(self.repository.opened())
        await self._stack.enter_async_context(self.mailer.running())
        return self

    async def stop(self) -> None:
        await self._stack.aclose()

    def count(self, outcome: str, webhook: str = "on-call") -> float:
        """Deliveries so far."""
        labels = {"webhook": webhook, "outcome": outcome}
        return self.registry.get_sample_value("steadynorm_webhook_deliveries_total", labels) or 0.0

    async def counts(self, outcome: str, wanted: int) -> None:
        """Wait for so many deliveries."""
        await until(lambda: self.count(outcome) >= wanted)
        assert self.count(outcome) == wanted

    async def waiting_s(self) -> float:
        """Age of the oldest undelivered event, as a scrape finds it."""
        await self.mailer.note_waiting()
        name = "steadynorm_webhook_oldest_undelivered_seconds"
        return self.registry.get_sample_value(name, {"webhook": "on-call"}) or 0.0


@pytest.fixture
async def send(store_url: str) -> AsyncIterator[Callable[..., Any]]:
    """await send(webhook, ...) -> a started mailer, ended with the test; it has looked at the store once."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*webhooks: Webhook, dashboard_url: str | None = None, **pace: Any) -> Sending:
            pace_ = msgspec.structs.replace(HURRY, **pace)
            sending = await Sending(store_url, list(webhooks), pace_, dashboard_url).start()
            stack.push_async_callback(sending.stop)
            while await sending.repository.redis.get(WebhookKeys.since) is None:  # noqa: ASYNC110 # nothing tells of it
                await asyncio.sleep(0.01)
            return sending

        yield start


@contextlib.contextmanager
def hanging(sending: Any, *names: str) -> Iterator[tuple[asyncio.Event, Counter[str]]]:
    """These scripts of one process wait until the event is set. Gives it, and how often each script was called."""
    go_on, calls = asyncio.Event(), Counter[str]()
    real = sending.repository.redis.script

    async def script(name: str, *args: Any) -> Any:
        calls[name] += 1
        if name in names:
            await go_on.wait()
        return await real(name, *args)

    with mock.patch.object(sending.repository.redis, "script", script):
        yield go_on, calls
        go_on.set()


@pytest.fixture
def hangs() -> Callable[..., Any]:
    """with hangs(sending, "name of a script", ...) as (go_on, calls)"""
    return hanging


async def until(look: Callable[[], bool]) -> None:
    """Until look() is true."""
    async with asyncio.timeout(15):
        while not look():  # noqa: ASYNC110 # a metric tells of no change
            await asyncio.sleep(0.01)
