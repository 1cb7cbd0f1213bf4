"""REDIS_URL: what it may be, read without ever repeating a user or password.

redis://user:password@host:6379/0                          one Redis; rediss:// over TLS
unix:///path/to/redis.sock?db=0                            one Redis by its socket
redis+cluster://user:password@one:6379,two:6379            a cluster, by some of its nodes; rediss+cluster:// over TLS
redis+sentinel://user:password@one:26379,two:26379/name/0  the primary that these Sentinels know by this name
                                                           (…?sentinel_username=…&sentinel_password=… for their own)
"""

import re
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from steadynorm_server.errors import StartError

Node = tuple[str, int]
"""Host and port."""
_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")
_PORTS = {"sentinel": 26379}
_ENCODE = (
    "A user or password with one of `/ ? # [ ] @ % :` must be percent-encoded: "
    "python3 -c 'import getpass, urllib.parse; print(urllib.parse.quote(getpass.getpass(), safe=str()))'"
)


class RedisAddressError(StartError):
    """REDIS_URL is no address of a Redis. The text says why, and repeats no part of a secret."""


@dataclass(frozen=True)
class StoreAddress:
    """A REDIS_URL that was read."""

    kind: Literal["single", "cluster", "sentinel"]
    nodes: tuple[Node, ...]
    """Of a single Redis at a socket: none."""
    service: str
    """Sentinel's name of the primary; else empty."""
    shown: str
    """The address without user, password and options."""
    _parts: SplitResult = field(repr=False)
    """Of one Redis: its scheme is redis, rediss or unix."""
    _sentinel_options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises RedisAddressError."""
        scheme, kind, parts = _split(url)
        netloc = parts.netloc.rpartition("@")[2]
        if scheme == "unix":
            nodes: tuple[Node, ...] = ()
        else:
            nodes = tuple(_node(each, _PORTS.get(kind, 6379)) for each in netloc.split(","))
        service, database = "", parts.path.strip("/")
        if kind == "sentinel":
            service, _, database = database.partition("/")
            if not service:
                raise RedisAddressError(
                    "REDIS_URL must name the primary as Sentinel does: redis+sentinel://HOST:26379/NAME."
                )
        if kind == "single" and len(nodes) > 1:
            raise RedisAddressError(
                "REDIS_URL names several hosts: use redis+cluster:// for a cluster, redis+sentinel:// for Sentinels."
            )
        if scheme != "unix" and not re.fullmatch("[0-9]*", database):
            raise RedisAddressError(f"the database at the end of REDIS_URL must be a number, as in /0. {_ENCODE}")
        if kind == "cluster" and database not in ("", "0"):
            raise RedisAddressError(f"a cluster has the database 0 only: got {database}. Leave it out of REDIS_URL.")
        query = parse_qsl(parts.query, keep_blank_values=True)
        options = tuple((name.removeprefix("sentinel_"), value) for name, value in query if name[:9] == "sentinel_")
        if options and kind == "sentinel":
            query = [each for each in query if each[0][:9] != "sentinel_"]
        one = parts._replace(
            scheme=scheme.partition("+")[0],
            path=parts.path if scheme == "unix" else f"/{database}" if database else "",
            query=urlencode(query),
            fragment="",
        )
        shown = f"{scheme}://{netloc}{parts.path}"
        address = cls(kind, nodes, service, shown, one, options if kind == "sentinel" else ())
        _require_options(address)
        return address

    def url_of(self, node: Node | None = None) -> str:
        """The address of one Redis as redis-py takes it: of this node, else the first, with our user and options."""
        if not self.nodes:
            return f"unix://{self._parts.netloc}{self._parts.path}?{self._parts.query}"
        host, port = node or self.nodes[0]
        credentials, at, _ = self._parts.netloc.rpartition("@")
        bracketed = f"[{host}]" if ":" in host else host
        return urlunsplit(self._parts._replace(netloc=f"{credentials}{at}{bracketed}:{port}"))

    def sentinel_options(self) -> dict[str, object]:
        """How to connect to the Sentinels themselves: their user and password, and our TLS."""
        found: dict[str, object] = dict(self._sentinel_options)
        if self._parts.scheme == "rediss":
            tls = {name: value for name, value in parse_qsl(self._parts.query) if name.startswith("ssl_")}
            found |= {"ssl": True, **tls}
        return found


def _split(url: str) -> tuple[str, Literal["single", "cluster", "sentinel"], SplitResult]:
    """Scheme, kind and parts; secrets are only where they belong. Raises RedisAddressError."""
    scheme = url.partition("://")[0]
    if scheme not in _SCHEMES or "://" not in url:
        got = f"got {scheme}://" if "://" in url and re.fullmatch("[a-z][a-z0-9+-]{0,30}", scheme) else "got none"
        known = ", ".join(f"{each}://" for each in _SCHEMES)
        raise RedisAddressError(f"REDIS_URL must begin with one of {known}: {got}.")
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that are no IPv6 address
        raise RedisAddressError(f"the host of REDIS_URL cannot be read. {_ENCODE}") from None
    if scheme != "unix":
        outside = f"{parts.path}?{parts.query}#{parts.fragment}"
        if parts.fragment or "@" in outside:
            raise RedisAddressError(f"the host of REDIS_URL cannot be read. {_ENCODE}")
    kind = scheme.partition("+")[2]
    return scheme, "cluster" if kind == "cluster" else "sentinel" if kind == "sentinel" else "single", parts


def _node(text: str, default_port: int) -> Node:
    """Raises RedisAddressError, which does not repeat the text: where a password holds `?`, it is a part of it."""
    try:
        one = urlsplit(f"redis://{text}")
        return one.hostname or "localhost", one.port or default_port
    except ValueError:
        raise RedisAddressError(f"the port in REDIS_URL must be a number up to 65535. {_ENCODE}") from None


def _require_options(address: StoreAddress) -> None:
    """Raises RedisAddressError for an option that redis-py does not know, and files of TLS that are not there."""
    try:
        connection = ConnectionPool.from_url(address.url_of()).make_connection()  # type: ignore[no-untyped-call] # of redis-py
        if (tls := getattr(connection, "ssl_context", None)) is not None:
            tls.get()
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or "they are not in PEM form"
        raise RedisAddressError(f"the files that REDIS_URL names for TLS cannot be read: {reason}.") from None
    except (TypeError, ValueError, RedisError) as error:
        known = re.search(r"argument '(\w+)'", str(error)) or re.search(r"value for '(\w+)'", str(error))
        what = f"the option {known[1]}" if known else "an option"
        raise RedisAddressError(
            f"REDIS_URL has {what}, by name or value none that redis-py takes there. Leave it out or correct it."
        ) from None
