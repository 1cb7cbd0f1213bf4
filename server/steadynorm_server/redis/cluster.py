"""A client of a Redis Cluster: routes each command to the primary that owns its key's slot.

REDIS_URL=redis+cluster://user:password@one:6379,two:6379      any nodes of the cluster; the others are discovered
REDIS_URL=rediss+cluster://…                                   the same over TLS
The scheme says that it is a cluster, so nothing has to be guessed while Redis is away.

By hand, because redis-py's RedisCluster (8.1, redis/asyncio/cluster.py) lets one lost primary disturb all others: an
error of one node makes every next command wait for the discovery of all (line 1330), and a failed pipeline closes the
connections of all nodes (2875). It also sends ASKING on one pooled connection and the command on another (1269), so
that a run whose slot moves is not found. docs/decisions has the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError
from redis.exceptions import ConnectionError as RedisAway

from steadynorm_server.redis import client
from steadynorm_server.redis.address import Node, StoreAddress
from steadynorm_server.redis.client import Memory, RedisClient, Script, Timed, connection_pool, memory_of
from steadynorm_server.redis.keys import PROBE
from steadynorm_server.redis.limiter import ConcurrencyLimiter

_SLOTS = 16384
_ATTEMPTS = 20
_MIGRATING_S = 0.05
"""Between attempts while some keys of a run have moved and others have not: a second in all."""
_REFRESH_AFTER_S = 0.2
"""While a primary is away, the slots are read no more often than this."""

_SCHEMA_AFTER_S = 1.0
"""While the primary that holds the schema is away, it is asked no more often than this."""

_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, ClusterDownError)


class ClusterRouter:
    """A client whose commands go to the primary that owns their first key: `await router.hgetall(key)`.

    seeds: addresses of nodes, some of which may be away. connect: makes a client of one node.
    Raises redis-py's ConnectionError if a slot's primary is away, or no primary owns the slot.
    """

    def __init__(self, seeds: list[Node], connect: Callable[[Node], Redis]) -> None:
        self._seeds = seeds
        self._connect = connect
        self._clients: dict[Node, Any] = {}  # redis-py's own types allow str everywhere
        self._owners: list[Node | None] = []
        self._refreshed = 0.0
        self._refreshing = asyncio.Lock()

    def __getattr__(self, command: str) -> Callable[..., Awaitable[Any]]:
        async def send(key: str, *args: Any, **options: Any) -> Any:
            return await self.execute(key, lambda node: getattr(node, command)(key, *args, **options))

        return send

    async def evalsha(self, digest: str, keys: int, key: str, *args: Any) -> Any:
        """Run a script that the owner of its first key has."""
        return await self.execute(key, lambda node: node.evalsha(digest, keys, key, *args))

    async def eval(self, text: str, keys: int, key: str, *args: Any) -> Any:
        """Run a script, and give it to the owner of its first key. SCRIPT LOAD would need all primaries to be there."""
        return await self.execute(key, lambda node: node.eval(text, keys, key, *args))

    async def execute(self, key: str, call: Callable[[Any], Any]) -> Any:
        """`call(client)`, with a client of the primary that owns the key."""
        slot = key_slot(key.encode())
        failure: RedisError | None = None
        for _ in range(_ATTEMPTS):
            owner = await self._owner(slot)
            try:
                return await self._call(owner, call)
            except MovedError as error:
                self._owners[slot] = (error.host or owner[0], error.port)
                failure = error
            except TryAgainError as error:
                failure = error
                await asyncio.sleep(_MIGRATING_S)
            except _AWAY as error:
                failure = error
                await self.refresh_slots(owner)
                if self._owners[slot] == owner:
                    break
        raise exceptions.ConnectionError(f"the cluster does not take this now: {failure}") from failure

    async def _call(self, owner: Node, call: Callable[[Any], Any]) -> Any:
        try:
            return await call(self.client(owner))
        except MovedError:  # which redis-py derives from the next one
            raise
        except AskError as error:  # the slot is migrating, and this key has moved already
            async with self.client((error.host or owner[0], error.port)).pipeline(transaction=False) as pipe:
                pipe.execute_command("ASKING")
                call(pipe)
                return (await pipe.execute())[-1]

    async def on_any(self, call: Callable[[Any], Awaitable[Any]]) -> Any:
        """`call(client)`, with a client of any primary that answers."""
        failure: RedisError = exceptions.ConnectionError("the cluster has no primary")
        for address in await self.primaries():
            try:
                return await call(self.client(address))
            except _AWAY as error:
                failure = error
        raise exceptions.ConnectionError(f"no primary of the cluster answers: {failure}") from failure

    async def on_any_slot(self, key: str, call: Callable[[Any, str], Awaitable[Any]]) -> Any:
        """`call(client, own key)`, with any primary that accepts it, and a key like `key` that it owns."""
        failure: RedisError = exceptions.ConnectionError("the cluster has no primary")
        for address in await self.primaries():
            keys = (f"{key}:{at}" for at in range(_SLOTS))
            own = next((each for each in keys if self._owners[key_slot(each.encode())] == address), None)
            if own is None:
                continue
            try:
                return await call(self.client(address), own)
            except RedisError as error:
                failure = error
        raise failure

    async def primaries(self) -> list[Node]:
        """All that own slots, in random order."""
        if not self._owners:
            await self.refresh_slots()
        return self._known_primaries()

    def client(self, address: Node) -> Any:
        """The client of one node."""
        if (client := self._clients.get(address)) is None:
            client = self._clients[address] = self._connect(address)
        return client

    async def group(self, keys: list[str]) -> dict[Node, list[int]]:
        """Positions of keys by the primary that owns them."""
        groups: dict[Node, list[int]] = {}
        for at, key in enumerate(keys):
            groups.setdefault(await self._owner(key_slot(key.encode())), []).append(at)
        return groups

    def pipeline(self, transaction: bool = False) -> ClusterPipeline:
        """Commands that are sent together, one pipeline for each primary."""
        assert not transaction, "a cluster has no transactions over several slots"
        return ClusterPipeline(self)

    async def aclose(self) -> None:
        """Close all connections."""
        clients, self._clients = list(self._clients.values()), {}
        for each in clients:
            await each.aclose()

    async def _owner(self, slot: int) -> Node:
        if not self._owners or self._owners[slot] is None:
            await self.refresh_slots()
        if (owner := self._owners[slot]) is None:
            raise exceptions.ConnectionError(f"no primary of the cluster owns slot {slot}")
        return owner

    async def refresh_slots(self, doubted: Node | None = None) -> None:
        """Read from any node who owns what, from a doubted one last. Raises ConnectionError if none answers."""
        async with self._refreshing:
            if self._owners and time.monotonic() < self._refreshed + _REFRESH_AFTER_S:
                return
            failure: Exception | None = None
            known = dict.fromkeys([*self._known_primaries(), *self._seeds])
            for address in sorted(known, key=lambda each: each == doubted):
                try:
                    slots = await self.client(address).execute_command("CLUSTER SLOTS")
                except (RedisError, OSError) as error:
                    failure = error
                    continue
                self._apply_slots(slots, address)
                self._refreshed = time.monotonic()
                return
            raise exceptions.ConnectionError(f"no node of the cluster answers: {failure}") from failure

    def _known_primaries(self) -> list[Node]:
        known = [address for address in dict.fromkeys(self._owners) if address is not None]
        return random.sample(known, len(known))

    def _apply_slots(self, slots: list[list[Any]], source: Node) -> None:
        owners: list[Node | None] = [None] * _SLOTS
        for first, last, (host, port, *_), *_ in slots:
            # A node that does not know its own name reports none: it has the one by which we reached it.
            address = (host.decode() if host else source[0], int(port))
            owners[first : last + 1] = [address] * (last + 1 - first)
        self._owners = owners


class ClusterPipeline:
    """A pipeline over many slots: `async with router.pipeline() as pipe:`, commands, `await pipe.execute()`."""

    def __init__(self, router: ClusterRouter) -> None:
        self._router = router
        self._commands: list[tuple[str, str, tuple[Any, ...]]] = []

    def __getattr__(self, command: str) -> Callable[..., ClusterPipeline]:
        def queue(key: str, *args: Any) -> ClusterPipeline:
            self._commands.append((command, key, args))
            return self

        return queue

    async def __aenter__(self) -> ClusterPipeline:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._commands.clear()

    async def execute(self) -> list[Any]:
        """All replies, in order. Raises the first error."""
        replies: list[Any] = [None] * len(self._commands)
        groups = await self._router.group([key for _, key, _ in self._commands])
        await asyncio.gather(*(self._send(places, replies) for places in groups.values()))
        return replies

    async def _send(self, places: list[int], replies: list[Any]) -> None:
        async def send_all(node: Any) -> list[Any]:
            async with node.pipeline(transaction=False) as pipe:
                for at in places:
                    command, key, args = self._commands[at]
                    getattr(pipe, command)(key, *args)
                found: list[Any] = await pipe.execute(raise_on_error=False)
            if away := next((each for each in found if isinstance(each, _AWAY)), None):
                raise away
            return found

        found = await self._router.execute(self._commands[places[0]][1], send_all)
        for at, reply in zip(places, found, strict=True):
            if isinstance(reply, AskError | TryAgainError):  # MovedError too: this key's slot migrates or has moved
                command, key, args = self._commands[at]
                reply = await getattr(self._router, command)(key, *args)
            if isinstance(reply, Exception):
                raise reply
            replies[at] = reply


_CONNECTIONS = 64
"""To each primary."""
_SOCKET_TIMEOUT_S = 0.6
"""Of the 1.5 s of a command: after a primary that hangs there is time to find its successor and to ask that one."""


class ClusterClient(RedisClient):
    """A RedisClient over all primaries.

    Commands about a run whose primary is away raise redis-py's ConnectionError, and so do commands to all primaries;
    other runs are not affected.
    """

    _ask_schema_at = -math.inf  # monotonic seconds

    def __init__(self, address: StoreAddress, timed: Timed = contextlib.nullcontext) -> None:
        self._address = address
        self._client: Any = ClusterRouter(
            list(address.nodes), lambda node: self._node(node, _CONNECTIONS, _SOCKET_TIMEOUT_S)
        )
        self._timed = timed
        # Unlimited here: each primary's pool queues its own callers, so one that hangs does not delay the others'.
        self._limiter = ConcurrencyLimiter(sys.maxsize, client.TIMEOUT_S)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _require_schema(self) -> None:
        """As of one Redis. The primary that holds the schema may be away, which must not stop runs on the others."""
        if time.monotonic() < self._ask_schema_at:
            return
        try:
            await super()._require_schema()
        except _AWAY:
            self._ask_schema_at = time.monotonic() + _SCHEMA_AFTER_S

    async def grouped_script(self, name: Script, keys: Sequence[str], *args: bytes | str | int | float) -> Any:
        """By itself: the runs of others are on other primaries."""
        return await self.script(name, keys, *args)

    async def _renew(self) -> bool:
        """The router has asked the cluster anew already."""
        return False

    async def check(self) -> None:
        """Raises if no primary answers and takes writes. While one does, there are runs to serve."""
        self.doubt_schema()
        async with self._round_trip():
            await self._client.on_any_slot(PROBE, lambda node, key: node.setrange(key, 0, ""))

    async def publish(self, channel: str, message: str) -> None:
        """Publish through any primary, which passes the message on to all."""
        async with self._round_trip():
            await self._client.on_any(lambda node: node.publish(channel, message))

    async def keys(self, pattern: str) -> AsyncIterator[str]:
        """All matching keys of all primaries, without blocking one."""
        for address in await self._client.primaries():
            async for key in self._client.client(address).scan_iter(match=pattern, count=1000):
                yield key.decode()

    async def memory(self) -> list[Memory]:
        """What each primary takes."""
        async with self._round_trip():
            nodes = [self._client.client(address) for address in await self._client.primaries()]
            return [memory_of(info) for info in await asyncio.gather(*(node.info("memory") for node in nodes))]

    @contextlib.asynccontextmanager
    async def subscription(self) -> AsyncIterator[PubSub]:
        """A subscription on a connection of its own, to any primary: each passes all messages on."""
        node: Any = self._node(random.choice(await self._client.primaries()), 1, None)  # no time-out: it waits
        try:
            async with node.pubsub() as subscription:
                yield subscription
        finally:
            await node.aclose()

    def _node(self, address: Node, connections: int, socket_timeout_s: float | None) -> Redis:
        pool = connection_pool(self._address.url_of(address), connections, socket_timeout_s)
        if socket_timeout_s is not None:  # no retry after a time-out: it would take as long again
            retry = Retry(NoBackoff(), 1, supported_errors=(RedisAway,))
            pool.connection_kwargs |= {"retry": retry, "socket_connect_timeout": socket_timeout_s}
        return Redis.from_pool(pool)
