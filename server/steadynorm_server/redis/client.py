"""The Redis commands that we use, typed as the bytes that they return, and our Lua scripts."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from importlib import resources
from typing import Any, Literal

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from steadynorm_server.redis.keys import PROBE
from steadynorm_server.redis.limiter import ConcurrencyLimiter

# RESP2 gives the same types from Redis 6 to Valkey 9 and through proxies.
_PROTOCOL = 2
_MAX_CONNECTIONS = 32
TIMEOUT_S = 1.5
"""A Redis that hangs is a 503 within 2 s: the wait for a connection, the reply and a retry fit into this together."""

Fields = dict[bytes, bytes]
Script = Literal[
    "blocks", "change", "commit", "compare_and_set", "delete_if_expired", "desired_settings", "finish", "mark_stalled",
    "register", "trim", "webhook_append", "webhook_claim", "webhook_outcome",
]  # fmt: skip
Timed = Callable[[], AbstractContextManager[None]]
"""Makes a context that times one round trip."""


def connection_pool(url: str, connections: int, socket_timeout_s: float | None) -> BlockingConnectionPool:
    """A pool as all our clients have it."""
    return BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=TIMEOUT_S,
        protocol=_PROTOCOL,
        socket_timeout=socket_timeout_s,
        socket_connect_timeout=1,
        # One retry, soon: after a restart of Redis it gets a new connection; if Redis is away, the 503 comes quickly.
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), 1),
        health_check_interval=15,
        client_name="steadynorm",
    )


@functools.cache
def _scripts() -> dict[str, tuple[str, str]]:
    """SHA-1 and text of each script, by name."""
    folder = resources.files(__package__).joinpath("scripts")
    texts = {file.name.removesuffix(".lua"): file.read_text("utf-8") for file in folder.iterdir()}
    return {
        name: (hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), text) for name, text in texts.items()
    }


class RedisClient:
    """One Redis or Valkey. Methods raise redis-py's errors while it is away."""

    def __init__(self, url: str, timed: Timed = nullcontext) -> None:
        self._client: Any = Redis.from_pool(connection_pool(url, _MAX_CONNECTIONS, 5))  # its types allow str everywhere
        # Subscriptions have a pool of their own: they need no socket time-out, and must not use up the connections.
        self._subscriber: Any = Redis.from_pool(connection_pool(url, 4, None))
        self._timed = timed
        self._limiter = ConcurrencyLimiter(_MAX_CONNECTIONS, TIMEOUT_S)

    @asynccontextmanager
    async def _round_trip(self) -> AsyncIterator[None]:
        try:
            async with self._limiter.acquire() as remaining_s, asyncio.timeout(remaining_s):
                with self._timed():
                    yield
        except TimeoutError as error:
            raise RedisTimeout(f"no reply within {TIMEOUT_S:g} s") from error

    async def _run(self, command: str, *args: Any, **options: Any) -> Any:
        async with self._round_trip():
            return await getattr(self._client, command)(*args, **options)

    async def _pipeline(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """All replies, in one round trip."""
        async with self._client.pipeline(transaction=False) as pipe:
            for command, *args in commands:
                getattr(pipe, command)(*args)
            async with self._round_trip():
                replies: list[Any] = await pipe.execute()
        return replies

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        await self._subscriber.aclose()

    async def check(self) -> None:
        """Raises if Redis does not answer or refuses writes. Writes nothing itself."""
        await self._run("setrange", PROBE, 0, "")  # an empty value changes nothing, but needs permission to write

    async def script(self, name: Script, keys: Sequence[str], *args: bytes | str | int | float) -> Any:
        """Run one of our scripts, atomically. Its first lines document keys, arguments and reply."""
        digest, text = _scripts()[name]
        async with self._round_trip():
            try:
                return await self._client.evalsha(digest, len(keys), *keys, *args)
            except NoScriptError:  # the first time, and after a restart
                return await self._client.eval(text, len(keys), *keys, *args)

    async def get(self, key: str) -> bytes | None:
        """A string."""
        found: bytes | None = await self._run("get", key)
        return found

    async def get_all(self, keys: Sequence[str]) -> list[bytes | None]:
        """Several strings, in one round trip."""
        return await self._pipeline(("get", key) for key in keys)

    async def hash(self, key: str) -> Fields:
        """All fields; none if the key does not exist."""
        found: Fields = await self._run("hgetall", key)
        return found

    async def hashes(self, keys: Sequence[str]) -> list[Fields]:
        """All fields of each key, in one round trip."""
        return await self._pipeline(("hgetall", key) for key in keys)

    async def fields(self, places: Sequence[tuple[str, str]]) -> list[bytes | None]:
        """Single fields of hashes, as (key, field), in one round trip."""
        return await self._pipeline(("hget", *place) for place in places)

    async def entries_after(self, stream: str, entry: int) -> list[Fields]:
        """Entries of a stream with numbers as ids, after number `entry`."""
        return [fields for _, fields in await self._run("xrange", stream, f"({entry}-0", "+")]

    async def entries_between(self, stream: str, after: int, last: int, limit: int) -> list[tuple[int, Fields]]:
        """The first `limit` entries of such a stream after number `after` up to number `last`, with their numbers."""
        found = await self._run("xrange", stream, f"({after}-0", f"{last}-0", count=limit)
        return [(int(entry.partition(b"-")[0]), fields) for entry, fields in found]

    async def entries_of(self, places: Sequence[tuple[str, str]], limit: int) -> list[list[tuple[str, Fields]]]:
        """Up to `limit` entries of each stream after an id ('-': from the first), oldest first, in one round trip."""
        found = await self._pipeline(
            ("xrange", stream, after if after == "-" else f"({after}", "+", limit) for stream, after in places
        )
        return [[(entry.decode(), fields) for entry, fields in each] for each in found]

    async def newest_entries(self, stream: str, limit: int, before: str | None = None) -> list[tuple[str, Fields]]:
        """The last entries of a stream, or the last before an id, with their ids, newest first."""
        found = await self._run("xrevrange", stream, f"({before}" if before else "+", count=limit)
        return [(entry.decode(), fields) for entry, fields in found]

    async def newest(self, streams: Sequence[str]) -> list[Fields | None]:
        """The last entry of each stream, None of an empty one, in one round trip."""
        found = await self._pipeline(("xrevrange", stream, "+", "-", 1) for stream in streams)
        return [entries[0][1] if entries else None for entries in found]

    async def index(self, key: str) -> list[str]:
        """Members of a sorted set, highest first."""
        return [member.decode() for member in await self._run("zrevrange", key, 0, -1)]

    async def add_to_index(self, key: str, scores: Mapping[str, float]) -> None:
        """Add members to a sorted set; present ones keep their score."""
        await self._run("zadd", key, scores, nx=True)

    async def remove_from_index(self, key: str, *members: str) -> None:
        """Remove members from a sorted set."""
        await self._run("zrem", key, *members)

    async def set_if_absent(self, key: str, ms: int) -> bool:
        """Set a key that expires. Returns whether it was absent."""
        return bool(await self._run("set", key, "", px=ms, nx=True))

    async def remove_fields(self, key: str, *names: str) -> None:
        """Remove fields of a hash."""
        await self._run("hdel", key, *names)

    async def remove(self, *keys: str) -> None:
        """Remove keys atomically; Redis frees their memory later."""
        await self._run("unlink", *keys)

    async def publish(self, channel: str, message: str) -> None:
        """Publish to all subscribers."""
        await self._run("publish", channel, message)

    async def keys(self, pattern: str) -> AsyncIterator[str]:
        """All matching keys, without blocking Redis."""
        async for key in self._client.scan_iter(match=pattern, count=1000):
            yield key.decode()

    def subscription(self) -> AbstractAsyncContextManager[PubSub]:
        """A subscription on a connection of its own."""
        subscription: PubSub = self._subscriber.pubsub()
        return subscription


def is_write_refused(error: ResponseError) -> bool:
    """Whether Redis is read-only, full or the like; any other reply of an error is a bug of ours."""
    if isinstance(error, OutOfMemoryError | ReadOnlyError):
        return True
    return any(word in str(error) for word in ("MISCONF", "OOM", "READONLY", "LOADING", "BUSY", "NOREPLICAS"))
