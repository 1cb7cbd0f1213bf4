"""The Redis commands that we use, typed as the bytes that they return, and our Lua scripts."""

import asyncio
import functools
import hashlib
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from importlib import resources
from typing import Any, Literal, NamedTuple

import hiredis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from steadynorm_server.redis import schema
from steadynorm_server.redis.keys import CHANGES, PROBE
from steadynorm_server.redis.limiter import ConcurrencyLimiter
from steadynorm_server.redis.script_groups import Command, ScriptGroups
from steadynorm_server.redis_errors import is_demoted, is_refused_for_now

# RESP2 gives the same types from Redis 6 to Valkey 9 and through proxies.
_PROTOCOL = 2
_ENTRY = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")
_MAX_CONNECTIONS = 32
TIMEOUT_S = 1.5
"""A Redis that hangs is a 503 within 2 s: the wait for a connection, the reply and a retry fit into this together."""

_RENEW_EVERY_S = 0.25  # a store that stays read-only does not cost a new connection for each command

Fields = dict[bytes, bytes]
Script = Literal[
    "blocks", "budget", "change", "commit", "compare_and_set", "delete_if_expired", "desired_settings", "finish",
    "mark_stalled", "note", "register", "reserve", "trim", "webhook_append", "webhook_audit",
    "webhook_claim", "webhook_outcome",
]  # fmt: skip
Timed = Callable[[], AbstractContextManager[None]]
"""Makes a context that times one round trip."""


def connection_pool(url: str, connections: int, socket_timeout_s: float | None) -> BlockingConnectionPool:
    """A pool as all our clients have it."""
    options = connection_options(socket_timeout_s)
    return BlockingConnectionPool.from_url(url, max_connections=connections, timeout=TIMEOUT_S, **options)


def connection_options(socket_timeout_s: float | None) -> dict[str, Any]:
    """How each of our connections is made."""
    return {
        "protocol": _PROTOCOL,
        "socket_timeout": socket_timeout_s,
        "socket_connect_timeout": 1,
        # One retry, soon: after a restart of Redis it gets a new connection; if Redis is away, the 503 comes quickly.
        "retry": Retry(ExponentialBackoff(cap=0.1, base=0.02), 1),
        "health_check_interval": 15,
        "client_name": "steadynorm",
    }


@functools.cache
def _scripts() -> dict[str, tuple[str, str]]:
    """SHA-1 and text of each script, by name."""
    folder = resources.files(__package__).joinpath("scripts")
    texts = {file.name.removesuffix(".lua"): file.read_text("utf-8") for file in folder.iterdir()}
    return {
        name: (hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), text) for name, text in texts.items()
    }


class Memory(NamedTuple):
    """What one Redis server takes and may take."""

    used_bytes: int
    max_bytes: int
    """Its `maxmemory`; without one, the memory of its machine. 0: it tells neither."""
    policy: str
    """Its `maxmemory-policy`."""


class RedisClient:
    """One Redis or Valkey. Methods raise redis-py's errors while it is away.

    At a failover the address leads to another server, while connections to the demoted one stay open and answer. So one
    that refuses a write since it is no primary is dropped, with all idle ones, and the command is tried once more.

    No command is sent before the schema of what is stored is known to be one that this server reads.
    """

    _renewed_at = -math.inf  # monotonic seconds
    _reads_schema = False

    def __init__(self, url: str, timed: Timed = nullcontext) -> None:
        self._client, self._subscriber = self._clients(url)
        self._timed = timed
        self._limiter = ConcurrencyLimiter(_MAX_CONNECTIONS, TIMEOUT_S)
        self._groups = ScriptGroups(self._send_group)

    def _clients(self, url: str) -> tuple[Any, Any]:  # redis-py's own types allow str everywhere
        """For commands, and for subscriptions: these need no socket time-out, and must not use up the connections."""
        commands, subscriptions = connection_pool(url, _MAX_CONNECTIONS, 5), connection_pool(url, 4, None)
        return Redis.from_pool(commands), Redis.from_pool(subscriptions)

    @asynccontextmanager
    async def _round_trip(self) -> AsyncIterator[None]:
        try:
            async with self._limiter.acquire() as remaining_s, asyncio.timeout(remaining_s):
                if not self._reads_schema:
                    await self._require_schema()
                with self._timed():
                    yield
        except TimeoutError as error:
            raise RedisTimeout(f"no reply within {TIMEOUT_S:g} s") from error

    async def _require_schema(self) -> None:
        """Raises NewerSchemaError, also where Redis was away when this server started."""
        try:
            await schema.claim(self._client)
        except ResponseError as error:
            if not is_refused_for_now(error):
                raise
            return  # it has none yet, and takes none now: what only reads can go on
        self._reads_schema = True

    def doubt_schema(self) -> None:
        """Ask for it again with the next command: a later server may have begun to write."""
        self._reads_schema = False

    async def _answer(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """What `call` returns. Where a demoted server refused it, it did nothing, and is called once more."""
        async with self._round_trip():
            try:
                return await call()
            except ResponseError as error:
                if not is_demoted(error) or not await self._renew():
                    raise
            return await call()

    async def _renew(self) -> bool:
        """Drop all idle connections, the one that was just used among them. False: not again so soon."""
        if time.monotonic() - self._renewed_at < _RENEW_EVERY_S:
            return False
        self._renewed_at = time.monotonic()
        await self._client.connection_pool.disconnect(inuse_connections=False)
        return True

    async def _run(self, command: str, *args: Any, **options: Any) -> Any:
        return await self._answer(lambda: getattr(self._client, command)(*args, **options))

    async def pipeline(self, *commands: tuple[Any, ...]) -> list[Any]:
        """The replies to a few commands, each as (name, key, arguments), in one round trip; not atomic."""
        return await self._pipeline(commands)

    async def _pipeline(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """All replies, in one round trip."""
        listed = list(commands)

        async def send() -> list[Any]:
            async with self._client.pipeline(transaction=False) as pipe:
                for command, *args in listed:
                    getattr(pipe, command)(*args)
                replies: list[Any] = await pipe.execute()
            return replies

        answered: list[Any] = await self._answer(send)
        return answered

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        await self._subscriber.aclose()

    async def check(self) -> None:
        """Raises if Redis does not answer, refuses writes, holds a newer schema or lacks a permission that we need."""

        async def send() -> list[Any]:
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.get(schema.KEY)
                pipe.setrange(PROBE, 0, "")  # an empty value changes nothing, but needs permission to write
                pipe.evalsha(_scripts()["desired_settings"][0], 1, PROBE, "0")  # of no run
                pipe.publish(CHANGES, "")  # of no run
                replies: list[Any] = await pipe.execute(raise_on_error=False)
            errors = (each for each in replies if isinstance(each, Exception))
            if error := next((each for each in errors if not isinstance(each, NoScriptError)), None):
                raise error
            return replies

        stored, _, ran, _ = await self._answer(send)
        if isinstance(ran, NoScriptError):  # once, after a restart of Redis
            await self.script("desired_settings", [PROBE], "0")
        self._reads_schema = False  # unless what follows finds it
        self._reads_schema = schema.is_claimed(stored)

    async def script(self, name: Script, keys: Sequence[str], *args: bytes | str | int | float) -> Any:
        """Run one of our scripts, atomically. Its first lines document keys, arguments and reply."""
        digest, text = _scripts()[name]

        async def run() -> Any:
            try:
                return await self._client.evalsha(digest, len(keys), *keys, *args)
            except NoScriptError:  # the first time, and after a restart
                return await self._client.eval(text, len(keys), *keys, *args)

        return await self._answer(run)

    async def grouped_script(self, name: Script, keys: Sequence[str], *args: bytes | str | int | float) -> Any:
        """As `script`, together with others that wait for the same, in one round trip."""
        command = ("EVALSHA", _scripts()[name][0], len(keys), *keys, *args)
        try:
            return await self._groups.run(command, sum(len(arg) for arg in args if isinstance(arg, bytes)))
        except NoScriptError:
            return await self.script(name, keys, *args)

    async def _send_group(self, commands: Sequence[Command]) -> list[Any]:
        """What came of each command, in one round trip.

        redis-py's own pipeline packs in Python, and sets a timer for each reply.
        """
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]  # it takes any length, its stub one

        async def exchange() -> list[Any]:
            pool = self._client.connection_pool
            connection = await pool.get_connection()
            try:
                found: list[Any] = await connection.retry.call_with_retry(
                    lambda: _exchange(connection, packed), lambda _: connection.disconnect()
                )
            finally:
                await pool.release(connection)
            return found

        answered: list[Any] = await self._answer(exchange)
        return answered

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

    async def picked(self, keys: Sequence[str], fields: Sequence[str]) -> list[list[bytes | None]]:
        """These fields of each hash, in one round trip."""
        return await self._pipeline(("hmget", key, fields) for key in keys)

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

    async def entry(self, stream: str, entry: str) -> Fields | None:
        """One entry of a stream; None if there is none of this id."""
        if not _ENTRY.fullmatch(entry):
            return None
        found = await self._run("xrange", stream, entry, entry)
        return found[0][1] if found else None

    async def newest(self, streams: Sequence[str]) -> list[Fields | None]:
        """The last entry of each stream, None of an empty one, in one round trip."""
        found = await self._pipeline(("xrevrange", stream, "+", "-", 1) for stream in streams)
        return [entries[0][1] if entries else None for entries in found]

    async def index(self, key: str, first: int = 0, last: int = -1) -> list[str]:
        """Members of a sorted set, highest first, between two places."""
        return [member.decode() for member in await self._run("zrevrange", key, first, last)]

    async def index_scores(self, key: str) -> dict[str, float]:
        """Members of a sorted set with their scores, lowest first."""
        found = await self._run("zrange", key, 0, -1, withscores=True)
        return {member.decode(): score for member, score in found}

    async def remove_from_index(self, key: str, *members: str) -> None:
        """Remove members from a sorted set."""
        await self._run("zrem", key, *members)

    async def set(self, key: str, value: str) -> None:
        """Set a string."""
        await self._run("set", key, value)

    async def set_if_absent(self, key: str, ms: int) -> bool:
        """Set a key that expires. Returns whether it was absent."""
        return bool(await self._run("set", key, "", px=ms, nx=True))

    async def remove_fields(self, key: str, *names: str) -> None:
        """Remove fields of a hash."""
        await self._run("hdel", key, *names)

    async def remove(self, *keys: str) -> None:
        """Remove keys atomically; Redis frees their memory later."""
        await self._run("unlink", *keys)

    async def memory(self) -> list[Memory]:
        """What each server takes that has a part of the data. Needs the permission for INFO."""
        return [memory_of(await self._run("info", "memory"))]

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


async def _exchange(connection: Any, packed: Sequence[bytes]) -> list[Any]:
    """Send all, read all. Raises the error of a demoted server, which refuses each of them."""
    await connection.send_packed_command(packed)
    replies = []
    for _ in packed:
        try:
            replies.append(await connection.read_response(timeout=math.inf))  # whoever called has a deadline
        except ResponseError as error:
            if is_demoted(error):
                await connection.disconnect()  # with the replies that were not read
                raise
            replies.append(error)
    return replies


def memory_of(info: Mapping[str, Any]) -> Memory:
    """info: the section `memory` of INFO."""
    most = int(info.get("maxmemory", 0)) or int(info.get("total_system_memory", 0))
    return Memory(int(info["used_memory"]), most, str(info.get("maxmemory_policy", "unknown")))
