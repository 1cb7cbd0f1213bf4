"""A client of the primary that Redis Sentinels know by a name: each new connection asks them who it is now."""

from contextlib import nullcontext
from typing import Any

from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from steadynorm_server.redis.address import StoreAddress
from steadynorm_server.redis.client import RedisClient, Timed, connection_options

_ASK_S = 0.4
"""For a Sentinel to answer: of the 1.5 s of a command, so that one that hangs leaves time to ask the next."""


class SentinelClient(RedisClient):
    """A RedisClient of the present primary.

    After a failover a connection to the old primary fails, or is told that it may not write; the next one asks the
    Sentinels. Until they agree on a primary, commands raise redis-py's ConnectionError.
    """

    def __init__(self, address: StoreAddress, timed: Timed = nullcontext) -> None:
        self._address = address
        # No retry, which by default waits for seconds: there is another Sentinel to ask.
        asked: dict[str, object] = {
            "socket_timeout": _ASK_S,
            "socket_connect_timeout": _ASK_S,
            "retry": Retry(NoBackoff(), 0),
        }
        asked |= address.sentinel_options()
        self._sentinel = Sentinel(address.nodes, sentinel_kwargs=asked)  # type: ignore[no-untyped-call] # of redis-py
        super().__init__(address.url_of(), timed)

    def _clients(self, url: str) -> tuple[Any, Any]:
        given: dict[str, Any] = dict(parse_url(url))
        tls = given.pop("connection_class", None) is not None
        del given["host"], given["port"]

        def client(socket_timeout_s: float | None) -> Any:
            options = connection_options(socket_timeout_s) | given | {"ssl": tls}
            return self._sentinel.master_for(self._address.service, **options)

        return client(5), client(None)

    async def close(self) -> None:
        """Close all connections, those to the Sentinels too."""
        await super().close()
        await self._sentinel.aclose()
