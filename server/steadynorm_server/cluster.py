"""The way to a Redis Cluster: the same commands as to one Redis, sent to where each key lives.

REDIS_URL=redis+cluster://user:password@one:6379,two:6379      any nodes of the cluster; the others are found from them
REDIS_URL=rediss+cluster://…                                   the same over TLS
The scheme says what the store is, so that nothing has to be guessed while it is away.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as StoreAway
from redis.exceptions import NoScriptError

from steadynorm_server import connection
from steadynorm_server.connection import Connection, Timed
from steadynorm_server.keys import PROBE
from steadynorm_server.slots import Address, Slots
from steadynorm_server.turns import Turns

__all__ = ["SCHEMES", "ClusterConnection", "connection_to"]

SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
_DEFAULT_PORT = 6379
_CONNECTIONS = 64
"""To each master."""
_SOCKET_TIMEOUT_S = 0.6
"""Of the 1.5 s that a command has in all: a master that hangs leaves time to ask who took over, and to go there."""


def connection_to(url: str, timed: Timed = contextlib.nullcontext) -> Connection:
    """What speaks to the store at `url`: one Redis, or a cluster where the scheme says so."""
    return ClusterConnection(url, timed) if urlsplit(url).scheme in SCHEMES else Connection(url, timed)


class ClusterConnection(Connection):
    """A Connection over all masters.

    A run whose master is away raises redis-py's ConnectionError, and so does what asks all masters; other runs go on.
    """

    def __init__(self, url: str, timed: Timed = contextlib.nullcontext) -> None:
        self._parts = urlsplit(url)
        self._client: Any = Slots(_seeds(url), lambda node: self._dial(node, _CONNECTIONS, _SOCKET_TIMEOUT_S))
        folder = resources.files(__package__).joinpath("lua")
        self._scripts: Any = {
            name.name.removesuffix(".lua"): _Script(self._client, name.read_text("utf-8")) for name in folder.iterdir()
        }
        self._timed = timed
        # Each master's pool makes its own callers wait: those of a master that hangs must not be in the others' way.
        self._turns = Turns(sys.maxsize, connection._WITHIN_S)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def check(self) -> None:
        """Raises when no master answers and takes writes. While one does, there are runs to serve."""
        async with self._round_trip():
            await self._client.on_any_slot(PROBE, lambda node, key: node.setrange(key, 0, ""))

    async def publish(self, channel: str, message: str) -> None:
        """Tell who listens, through any master: each passes it on."""
        async with self._round_trip():
            await self._client.on_any(lambda node: node.publish(channel, message))

    async def keys(self, pattern: str) -> AsyncIterator[str]:
        """All keys of all masters that match, without holding one up."""
        for address in await self._client.masters():
            async for key in self._client.client(address).scan_iter(match=pattern, count=1000):
                yield key.decode()

    @contextlib.asynccontextmanager
    async def subscription(self) -> AsyncIterator[PubSub]:  # type: ignore[override] # entered in the same way
        """A subscription on a connection of its own, to any master: each passes all messages on."""
        client: Any = self._dial(random.choice(await self._client.masters()), 1, None)  # no time-out: it waits
        try:
            async with client.pubsub() as subscription:
                yield subscription
        finally:
            await client.aclose()

    def _dial(self, node: Address, connections: int, socket_timeout_s: float | None) -> Redis:
        host = f"[{node[0]}]" if ":" in node[0] else node[0]
        credentials, at, _ = self._parts.netloc.rpartition("@")
        url = (SCHEMES[self._parts.scheme], f"{credentials}{at}{host}:{node[1]}", "", self._parts.query, "")
        pool = connection._pool(urlunsplit(url), connections, socket_timeout_s)
        if socket_timeout_s is not None:  # a second try where the first one timed out would take the time of that
            retry = Retry(NoBackoff(), 1, supported_errors=(StoreAway,))
            pool.connection_kwargs |= {"retry": retry, "socket_connect_timeout": socket_timeout_s}
        return Redis.from_pool(pool)


class _Script:
    """A script that a master gets when it meets it first. `SCRIPT LOAD` would need all masters to be there."""

    def __init__(self, slots: Slots, text: str) -> None:
        self._slots = slots
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], args: Sequence[bytes | str | int | float]) -> Any:
        given = (len(keys), *keys, *args)
        try:
            return await self._slots.on(keys[0], lambda node: node.evalsha(self._digest, *given))
        except NoScriptError:
            return await self._slots.on(keys[0], lambda node: node.eval(self._text, *given))


def _seeds(url: str) -> list[Address]:
    nodes = [urlsplit(f"redis://{each}") for each in urlsplit(url).netloc.rpartition("@")[2].split(",")]
    return [(node.hostname or "localhost", node.port or _DEFAULT_PORT) for node in nodes]
