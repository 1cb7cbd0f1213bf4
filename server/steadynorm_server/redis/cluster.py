"""The way to a Redis Cluster: the same commands as to one Redis, sent to where each key lives.

REDIS_URL=redis+cluster://user:password@one:6379,two:6379      any nodes of the cluster; the others are found from them
REDIS_URL=rediss+cluster://…                                   the same over TLS
The scheme says what the store is, so that nothing has to be guessed while it is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib import resources
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, RedisError, TryAgainError
from redis.exceptions import ConnectionError as StoreAway

from steadynorm_server.redis import client
from steadynorm_server.redis.client import Connection, Timed
from steadynorm_server.redis.keys import PROBE
from steadynorm_server.redis.limiter import ConcurrencyLimiter

__all__ = ["SCHEMES", "Address", "Batch", "ClusterConnection", "ClusterRouter", "connection_to"]


_SLOTS = 16384
_TRIES = 20
_MOVING_S = 0.05
"""Between tries while the keys of a run are partly here and partly there: a second in all."""
_ASK_AGAIN_S = 0.2
"""While a master is away, who took over is asked no more often than this."""

Address = tuple[str, int]
_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, ClusterDownError)


class ClusterRouter:
    """A client whose commands go to the master that holds their first key: `await slots.hgetall(key)`.

    seeds: addresses of nodes, some of which may be away. dial: makes a client of one node.
    Raises redis-py's ConnectionError where a slot's master is away or nobody holds it.
    """

    def __init__(self, seeds: list[Address], dial: Callable[[Address], Redis]) -> None:
        self._seeds = seeds
        self._dial = dial
        self._clients: dict[Address, Any] = {}  # redis-py's own types allow str everywhere
        self._holders: list[Address | None] = []
        self._asked = 0.0
        self._asking = asyncio.Lock()

    def __getattr__(self, command: str) -> Callable[..., Awaitable[Any]]:
        async def send(key: str, *args: Any, **options: Any) -> Any:
            return await self.on(key, lambda node: getattr(node, command)(key, *args, **options))

        return send

    async def on(self, key: str, call: Callable[[Any], Any]) -> Any:
        """`call(client)`, with a client of the master that holds the key."""
        slot = key_slot(key.encode())
        failure: RedisError | None = None
        for _ in range(_TRIES):
            holder = await self._holder(slot)
            try:
                return await self._call(holder, call)
            except MovedError as error:
                self._holders[slot] = (error.host or holder[0], error.port)
                failure = error
            except TryAgainError as error:
                failure = error
                await asyncio.sleep(_MOVING_S)
            except _AWAY as error:
                failure = error
                await self._learn(holder)
                if self._holders[slot] == holder:
                    break
        raise exceptions.ConnectionError(f"the cluster cannot take this now: {failure}") from failure

    async def _call(self, holder: Address, call: Callable[[Any], Any]) -> Any:
        try:
            return await call(self.client(holder))
        except MovedError:  # which redis-py derives from the next one
            raise
        except AskError as error:  # the slot is on its way to another master, and this key is there already
            async with self.client((error.host or holder[0], error.port)).pipeline(transaction=False) as pipe:
                pipe.execute_command("ASKING")
                call(pipe)
                return (await pipe.execute())[-1]

    async def on_any(self, call: Callable[[Any], Awaitable[Any]]) -> Any:
        """`call(client)`, with a client of whichever master answers."""
        failure: RedisError = exceptions.ConnectionError("the cluster has no master")
        for address in await self.masters():
            try:
                return await call(self.client(address))
            except _AWAY as error:
                failure = error
        raise exceptions.ConnectionError(f"no master of the cluster answers: {failure}") from failure

    async def on_any_slot(self, key: str, call: Callable[[Any, str], Awaitable[Any]]) -> Any:
        """`call(client, own key)`, with whichever master does it, and a key like `key` that it holds."""
        failure: RedisError = exceptions.ConnectionError("the cluster has no master")
        for address in await self.masters():
            keys = (f"{key}:{at}" for at in range(_SLOTS))
            own = next((each for each in keys if self._holders[key_slot(each.encode())] == address), None)
            if own is None:
                continue
            try:
                return await call(self.client(address), own)
            except RedisError as error:
                failure = error
        raise failure

    async def masters(self) -> list[Address]:
        """All that hold slots, in random order."""
        if not self._holders:
            await self._learn()
        known = [address for address in dict.fromkeys(self._holders) if address is not None]
        return random.sample(known, len(known))

    def client(self, address: Address) -> Any:
        """The client of one node."""
        if (client := self._clients.get(address)) is None:
            client = self._clients[address] = self._dial(address)
        return client

    async def group(self, keys: list[str]) -> dict[Address, list[int]]:
        """Positions of keys by the master that holds them."""
        groups: dict[Address, list[int]] = {}
        for at, key in enumerate(keys):
            groups.setdefault(await self._holder(key_slot(key.encode())), []).append(at)
        return groups

    def pipeline(self, transaction: bool = False) -> Batch:
        """Commands that are sent together, to each master its own."""
        assert not transaction, "a cluster has no transactions over several slots"
        return Batch(self)

    async def aclose(self) -> None:
        """Close all connections."""
        clients, self._clients = list(self._clients.values()), {}
        for each in clients:
            await each.aclose()

    async def _holder(self, slot: int) -> Address:
        if not self._holders:
            await self._learn()
        if (holder := self._holders[slot]) is None:
            await self._learn()
            holder = self._holders[slot]
        if holder is None:
            raise exceptions.ConnectionError(f"no master of the cluster holds slot {slot}")
        return holder

    async def _learn(self, doubted: Address | None = None) -> None:
        """Ask any node who holds what, a doubted one last. Raises ConnectionError where none answers."""
        async with self._asking:
            if self._holders and time.monotonic() < self._asked + _ASK_AGAIN_S:
                return
            failure: Exception | None = None
            known = dict.fromkeys([*self._shuffled(), *self._seeds])
            for address in sorted(known, key=lambda each: each == doubted):
                try:
                    found = await self.client(address).execute_command("CLUSTER SLOTS")
                except (RedisError, OSError) as error:
                    failure = error
                    continue
                self._take(found, address)
                self._asked = time.monotonic()
                return
            raise exceptions.ConnectionError(f"no node of the cluster answers: {failure}") from failure

    def _shuffled(self) -> list[Address]:
        known = [address for address in dict.fromkeys(self._holders) if address is not None]
        return random.sample(known, len(known))

    def _take(self, found: list[list[Any]], teller: Address) -> None:
        holders: list[Address | None] = [None] * _SLOTS
        for first, last, (host, port, *_), *_ in found:
            # A node that does not know its own name says none: it has the one that we reached it by.
            address = (host.decode() if host else teller[0], int(port))
            holders[first : last + 1] = [address] * (last + 1 - first)
        self._holders = holders


class Batch:
    """A pipeline over many slots: `async with slots.pipeline() as batch:`, commands, `await batch.execute()`."""

    def __init__(self, slots: ClusterRouter) -> None:
        self._slots = slots
        self._commands: list[tuple[str, str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, command: str) -> Callable[..., Batch]:
        def queue(key: str, *args: Any, **options: Any) -> Batch:
            self._commands.append((command, key, args, options))
            return self

        return queue

    async def __aenter__(self) -> Batch:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._commands.clear()

    async def execute(self) -> list[Any]:
        """All answers, in order. Raises the first error."""
        responses: list[Any] = [None] * len(self._commands)
        groups = await self._slots.group([key for _, key, _, _ in self._commands])
        await asyncio.gather(*(self._send(places, responses) for places in groups.values()))
        return responses

    async def _send(self, places: list[int], responses: list[Any]) -> None:
        first = self._commands[places[0]][1]

        async def all_of_them(node: Any) -> list[Any]:
            async with node.pipeline(transaction=False) as pipe:
                for at in places:
                    command, key, args, options = self._commands[at]
                    getattr(pipe, command)(key, *args, **options)
                found: list[Any] = await pipe.execute(raise_on_error=False)
            if away := next((each for each in found if isinstance(each, _AWAY)), None):
                raise away
            return found

        found = await self._slots.on(first, all_of_them)
        for at, answer in zip(places, found, strict=True):
            if isinstance(answer, AskError | TryAgainError):  # MovedError too: of this key, whose slot moves or moved
                command, key, args, options = self._commands[at]
                answer = await getattr(self._slots, command)(key, *args, **options)
            if isinstance(answer, Exception):
                raise answer
            responses[at] = answer


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
        self._client: Any = ClusterRouter(_seeds(url), lambda node: self._dial(node, _CONNECTIONS, _SOCKET_TIMEOUT_S))
        folder = resources.files(__package__).joinpath("scripts")
        self._scripts: Any = {
            name.name.removesuffix(".lua"): _Script(self._client, name.read_text("utf-8")) for name in folder.iterdir()
        }
        self._timed = timed
        # Each master's pool makes its own callers wait: those of a master that hangs must not be in the others' way.
        self._turns = ConcurrencyLimiter(sys.maxsize, client._WITHIN_S)

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
        pool = client._pool(urlunsplit(url), connections, socket_timeout_s)
        if socket_timeout_s is not None:  # a second try where the first one timed out would take the time of that
            retry = Retry(NoBackoff(), 1, supported_errors=(StoreAway,))
            pool.connection_kwargs |= {"retry": retry, "socket_connect_timeout": socket_timeout_s}
        return Redis.from_pool(pool)


class _Script:
    """A script that a master gets when it meets it first. `SCRIPT LOAD` would need all masters to be there."""

    def __init__(self, slots: ClusterRouter, text: str) -> None:
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
