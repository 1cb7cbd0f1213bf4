"""A receiver of webhooks on loopback, and dispatchers as server processes have them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import msgspec
from prometheus_client import CollectorRegistry
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from steadynorm_contract.webhooks import WebhookMessage
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.webhooks.config import Webhook
from steadynorm_server.webhooks.dispatcher import DispatchIntervals, WebhookDispatcher

KEY = b"a-secret-of-the-tests"
SHORT = DispatchIntervals(poll_s=0.02, sweep_s=0.04, merge_s=0.04, retry_s=0.05)


def is_genuine(headers: dict[str, str], body: bytes, key: bytes) -> bool:
    """Whether the library of a receiver accepts the signature."""
    try:
        Verifier(key).verify(body, headers, json_parse=False)
    except WebhookVerificationError:
        return False
    return True


@dataclass
class Post:
    """One request that a receiver got."""

    at: float
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> WebhookMessage:
        return msgspec.json.decode(self.body, type=WebhookMessage)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def genuine(self) -> bool:
        """Whether the signature is good, and is no longer if the body is another one."""
        return is_genuine(self.headers, self.body, KEY) and not is_genuine(self.headers, self.body + b" ", KEY)


@dataclass
class Receiver:
    """An HTTP server on loopback. `responses`: status codes of the next ones, 0 for none at all; then 200."""

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
                writer.write(f"HTTP/1.1 {status} As configured\r\nContent-Length: 0\r\n{self.head}\r\n".encode())
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver that runs during the block."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    yield receiver
    server.close()


class Dispatching:
    """A dispatcher as one server process has it."""

    def __init__(
        self, url: str, webhooks: list[Webhook], intervals: DispatchIntervals, dashboard_url: str | None
    ) -> None:
        self.registry = CollectorRegistry()
        self.repository = RunRepository(url)
        self.dispatcher = WebhookDispatcher(self.repository, webhooks, dashboard_url, self.registry, intervals)
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> Dispatching:
        await self._stack.enter_async_context(self.repository.opened())
        await self._stack.enter_async_context(self.dispatcher.running())
        return self

    async def stop(self) -> None:
        await self._stack.aclose()

    def count(self, outcome: str, webhook: str = "on-call") -> float:
        """Deliveries so far."""
        labels = {"webhook": webhook, "outcome": outcome}
        return self.registry.get_sample_value("steadynorm_webhook_deliveries_total", labels) or 0.0

    async def counts(self, outcome: str, expected: int) -> None:
        """Wait for so many deliveries."""
        await until(lambda: self.count(outcome) >= expected)
        assert self.count(outcome) == expected

    async def waiting_s(self) -> float:
        """Age of the oldest undelivered event, as a scrape finds it."""
        await self.dispatcher.update_waiting_metric()
        name = "steadynorm_webhook_oldest_undelivered_seconds"
        return self.registry.get_sample_value(name, {"webhook": "on-call"}) or 0.0


@contextlib.contextmanager
def hanging(dispatching: Dispatching, *names: str) -> Iterator[tuple[asyncio.Event, Counter[str]]]:
    """These scripts of one process wait until the event is set. Gives it, and how often each script was called."""
    resume, calls = asyncio.Event(), Counter[str]()
    real = dispatching.repository.redis.script

    async def script(name: Any, *args: Any) -> Any:
        calls[name] += 1
        if name in names:
            await resume.wait()
        return await real(name, *args)

    with mock.patch.object(dispatching.repository.redis, "script", script):
        yield resume, calls
        resume.set()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until condition() is true."""
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 # a counter has no event to wait for
            await asyncio.sleep(0.01)
