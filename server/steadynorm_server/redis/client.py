"""The way to the store: the few commands that we use, typed as the bytes that they give, and our Lua scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from importlib import resources
from typing import Any, Literal

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import TimeoutError as StoreTimeout

from steadynorm_server.redis.keys import PROBE
from steadynorm_server.redis.limiter import ConcurrencyLimiter

__all__ = ["Connection", "Fields", "Script", "Timed", "is_write_refused"]

# Version 2 of the protocol gives the same shapes from Redis 6 to Valkey 9 and through proxies.
_PROTOCOL = 2
_MAX_CONNECTIONS = 32
# A store that hangs is a 503 within 2 s: the wait for a connection, the answer and a second try fit into this together.
_WITHIN_S = 1.5

Fields = dict[bytes, bytes]
Script = Literal[
    "blocks", "change", "commit", "finish", "forget", "orders", "register", "stall", "wanted",
    "trim", "webhook_append", "webhook_claim", "webhook_outcome",
]  # fmt: skip
Timed = Callable[[], AbstractContextManager[None]]
"""Makes a context that times one round trip."""


def _pool(url: str, connections: int, socket_timeout_s: float | None) -> BlockingConnectionPool:
    return BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=_WITHIN_S,
        protocol=_PROTOCOL,
        socket_timeout=socket_timeout_s,
        socket_connect_timeout=1,
        # One more try, soon: a store that restarted is met by a fresh connection, one that is away by a quick 503.
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), 1),
        health_check_interval=15,
        client_name="steadynorm",
    )


class Connection:
    """Commands raise redis-py's errors when the store is away."""

    def __init__(self, url: str, timed: Timed = nullcontext) -> None:
        self._client: Any = Redis.from_pool(_pool(url, _MAX_CONNECTIONS, 5))  # its own types allow str everywhere
        # Reads that wait have a pool of their own: they must not run into the socket's timeout, nor take all there is.
        self._waiting: Any = Redis.from_pool(_pool(url, 4, None))
        self._timed = timed
        self._turns = ConcurrencyLimiter(_MAX_CONNECTIONS, _WITHIN_S)
        folder = resources.files(__package__).joinpath("scripts")
        self._scripts = {
            name.name.removesuffix(".lua"): self._client.register_script(name.read_text("utf-8"))
            for name in folder.iterdir()
        }

    @asynccontextmanager
    async def _round_trip(self) -> AsyncIterator[None]:
        try:
            async with self._turns.acquire() as left_s, asyncio.timeout(left_s):
                with self._timed():
                    yield
        except TimeoutError as error:
            raise StoreTimeout(f"no answer within {_WITHIN_S:g} s") from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        await self._waiting.aclose()

    async def check(self) -> None:
        """Raises when the store does not answer or takes no writes. Writes nothing itself."""
        async with self._round_trip():
            await self._client.setrange(PROBE, 0, "")  # nothing, put into nothing: only whether it may be is decided

    async def script(self, name: Script, keys: Sequence[str], *args: bytes | str | int | float) -> Any:
        """Run one of our scripts, whole or not at all. Its head says what it takes and answers."""
        async with self._round_trip():
            return await self._scripts[name](keys=keys, args=args)

    async def get(self, key: str) -> bytes | None:
        """A string."""
        async with self._round_trip():
            found: bytes | None = await self._client.get(key)
        return found

    async def get_all(self, keys: Sequence[str]) -> list[bytes | None]:
        """Several strings, in one round trip."""
        async with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.get(key)
            async with self._round_trip():
                found: list[bytes | None] = await pipe.execute()
        return found

    async def hash(self, key: str) -> Fields:
        """All fields; none of a key that is not there."""
        async with self._round_trip():
            found: Fields = await self._client.hgetall(key)
        return found

    async def hashes(self, keys: Sequence[str]) -> list[Fields]:
        """All fields of each key, in one round trip."""
        async with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hgetall(key)
            async with self._round_trip():
                found: list[Fields] = await pipe.execute()
        return found

    async def fields(self, wanted: Sequence[tuple[str, str]]) -> list[bytes | None]:
        """Single fields of hashes, as (key, field), in one round trip."""
        async with self._client.pipeline(transaction=False) as pipe:
            for key, field in wanted:
                pipe.hget(key, field)
            async with self._round_trip():
                found: list[bytes | None] = await pipe.execute()
        return found

    async def entries_after(self, stream: str, entry: int) -> list[Fields]:
        """Entries of a stream with ids of our own making, after number `entry`."""
        async with self._round_trip():
            found = await self._client.xrange(stream, f"({entry}-0", "+")
        return [fields for _, fields in found]

    async def entries_between(self, stream: str, after: int, last: int, limit: int) -> list[tuple[int, Fields]]:
        """The first entries of such a stream after number `after` and up to number `last`, with their numbers."""
        async with self._round_trip():
            found = await self._client.xrange(stream, f"({after}-0", f"{last}-0", count=limit)
        return [(int(entry.partition(b"-")[0]), fields) for entry, fields in found]

    async def entries_of(self, wanted: Sequence[tuple[str, str]], limit: int) -> list[list[tuple[str, Fields]]]:
        """Up to `limit` entries of each stream after an id ('-': from the first), oldest first, in one round trip."""
        async with self._client.pipeline(transaction=False) as pipe:
            for stream, after in wanted:
                pipe.xrange(stream, after if after == "-" else f"({after}", "+", count=limit)
            async with self._round_trip():
                found = await pipe.execute()
        return [[(entry.decode(), fields) for entry, fields in each] for each in found]

    async def newest_entries(self, stream: str, limit: int, before: str | None = None) -> list[tuple[str, Fields]]:
        """The last entries of a stream, those before an id where one is given, with their ids, newest first."""
        async with self._round_trip():
            found = await self._client.xrevrange(stream, f"({before}" if before else "+", count=limit)
        return [(entry.decode(), fields) for entry, fields in found]

    async def newest(self, streams: Sequence[str]) -> list[Fields | None]:
        """The last entry of each stream, None of an empty one, in one round trip."""
        async with self._client.pipeline(transaction=False) as pipe:
            for stream in streams:
                pipe.xrevrange(stream, "+", "-", count=1)
            async with self._round_trip():
                found = await pipe.execute()
        return [entries[0][1] if entries else None for entries in found]

    async def index(self, key: str) -> list[str]:
        """Members of a sorted set, highest first."""
        async with self._round_trip():
            found = await self._client.zrevrange(key, 0, -1)
        return [member.decode() for member in found]

    async def add_to_index(self, key: str, scores: Mapping[str, float]) -> None:
        """Add members to a sorted set; present ones keep their score."""
        async with self._round_trip():
            await self._client.zadd(key, scores, nx=True)

    async def remove_from_index(self, key: str, *members: str) -> None:
        """Remove members from a sorted set."""
        async with self._round_trip():
            await self._client.zrem(key, *members)

    async def set_if_absent(self, key: str, ms: int) -> bool:
        """Set a key that expires. Returns whether it was absent."""
        async with self._round_trip():
            return bool(await self._client.set(key, "", px=ms, nx=True))

    async def remove_fields(self, key: str, *names: str) -> None:
        """Remove fields of a hash."""
        async with self._round_trip():
            await self._client.hdel(key, *names)

    async def remove(self, *keys: str) -> None:
        """Remove keys, at one moment; the store frees their memory later."""
        async with self._round_trip():
            await self._client.unlink(*keys)

    async def publish(self, channel: str, message: str) -> None:
        """Tell who listens."""
        async with self._round_trip():
            await self._client.publish(channel, message)

    async def keys(self, pattern: str) -> AsyncIterator[str]:
        """All keys that match, without holding the store up."""
        async for key in self._client.scan_iter(match=pattern, count=1000):
            yield key.decode()

    def subscription(self) -> PubSub:
        """A subscription on a connection of its own."""
        subscription: PubSub = self._waiting.pubsub()
        return subscription


def is_write_refused(error: ResponseError) -> bool:
    """Whether a store said that it is read-only, full or the like; the rest would be a bug of ours."""
    if isinstance(error, OutOfMemoryError | ReadOnlyError):
        return True
    return any(word in str(error) for word in ("MISCONF", "OOM", "READONLY", "LOADING", "BUSY", "NOREPLICAS"))
