"""What `steadynorm doctor` looks at: the server, the token, the clocks, and how the store keeps what it was given.

The judgements take plain values and ask nobody; `examine_server` and `examine_store` ask, and never raise for what they
find: what does not answer is a finding too.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec
import urllib3

from steadynorm_contract import __version__
from steadynorm_contract.client import Client, ClientError, Unauthorized

__all__ = [
    "Check",
    "Verdict",
    "examine_server",
    "examine_store",
    "judge_clock",
    "judge_disk",
    "judge_store",
    "judge_version",
]

_TIMEOUT_S = 5.0
_SLOW_S = 0.5
_MAX_CLOCK_DIFFERENCE_S = 2.0
_MEMORY_WARNING = 0.8  # of maxmemory
_DISK_WARNING_BYTES = 2**30
_DISK_FAILURE_BYTES = 64 * 2**20


class Verdict(StrEnum):
    """How a check came out; only `fail` makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(msgspec.Struct, frozen=True):
    """One check: what was found, and where it is not ok, what to mend."""

    check: str
    verdict: Verdict
    found: str
    mend: str = ""


class _Description(msgspec.Struct):
    """The part of openapi.json that is needed here."""

    info: dict[str, object]


def _ok(check: str, found: str) -> Check:
    return Check(check, Verdict.OK, found)


def _warn(check: str, found: str, mend: str) -> Check:
    return Check(check, Verdict.WARN, found, mend)


def _fail(check: str, found: str, mend: str) -> Check:
    return Check(check, Verdict.FAIL, found, mend)


def examine_server(client: Client) -> list[Check]:
    """Whether the server answers, is ready, of our version and in our time, and knows the token."""
    with urllib3.PoolManager(timeout=_TIMEOUT_S, retries=False) as pool:
        try:
            pool.request("GET", f"{client.server}/healthz")  # what follows is timed on an open connection
            before = time.time()
            answer = pool.request("GET", f"{client.server}/readyz")
            after = time.time()
            described = pool.request("GET", f"{client.server}/openapi.json")
        except urllib3.exceptions.HTTPError as error:
            return [
                _fail(
                    "server",
                    f"nobody answers at {client.server} ({type(error).__name__})",
                    "start one with `steadynorm up`, or name yours with --server or STEADYNORM_SERVER",
                )
            ]
    return [
        _judge_readiness(client.server, answer.status, after - before),
        judge_version(_version_of(described.data)),
        _token(client),
        judge_clock(answer.headers.get("Date"), before, after),
    ]


def _judge_readiness(server: str, status: int, took_s: float) -> Check:
    found = f"{server} answered {status} in {took_s * 1000:.0f} ms"
    if status == 503:
        return _fail("server", found, "its store does not answer: look at the store, and at the server's log")
    if status != 200:
        return _fail("server", found, "this is no steadynorm server, or a proxy before it keeps /readyz to itself")
    if took_s > _SLOW_S:
        return _warn("server", found, "the machine, the store or the way to it is busy: look at each one's load")
    return _ok("server", found)


def _version_of(data: bytes) -> str | None:
    try:
        return str(msgspec.json.decode(data, type=_Description).info.get("version"))
    except msgspec.MsgspecError:
        return None


def judge_version(server: str | None, own: str = __version__) -> Check:
    """server: the version that the server told; None: it told none."""
    if server is None:
        return _warn("version", f"here {own}; the server tells none", "see that a proxy lets /openapi.json through")
    if server != own:
        return _warn(
            "version", f"here {own}, the server {server}", f"pip install steadynorm=={server} here, or update it"
        )
    return _ok("version", f"{own}, here and at the server")


def _token(client: Client) -> Check:
    try:
        me = client.me()
    except Unauthorized as error:
        return _fail("token", str(error), "set STEADYNORM_TOKEN to a token that this server knows")
    except ClientError as error:
        return _fail("token", str(error), "look at the server's log")
    bound = "" if me.runs is None else f", for runs {', '.join(me.runs)}"
    return _ok("token", f"{me.name}: {', '.join(me.roles)}{bound}")


def judge_clock(date: str | None, before: float, after: float) -> Check:
    """date: the answer's Date header, whole seconds; before, after: our Unix time at the request and the answer."""
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return _warn("clock", "the server's answer has no date", "see that a proxy passes the Date header on")
    # The header is cut to a second and made while we waited: only what neither explains is a difference.
    difference = max(theirs - after, before - (theirs + 1), 0.0)
    found = f"differs by {difference:.1f} s from the server's"
    if difference > _MAX_CLOCK_DIFFERENCE_S:
        return _warn("clock", found, "let both machines follow NTP: times of runs and of stalls are off by this")
    return _ok("clock", "agrees with the server's")


def examine_store(url: str) -> list[Check]:
    """Ask the store at `url` (redis://, rediss://, unix://, redis+cluster://) how it keeps data. Needs redis-py."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        node, shown, is_cluster = _first_node(url)
        with redis.Redis.from_url(
            node, protocol=2, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        ) as client:
            info: dict[str, object] = client.info()
            try:
                asked = ("append*", "maxmemory*", "save", "stop-writes-on-bgsave-error")
                config = {str(key): str(value) for key, value in client.config_get(*asked).items()}
            except redis.ResponseError:  # managed stores keep CONFIG to themselves
                config = {}
    except ValueError:  # its text may hold a part of the password
        return [
            _fail("store", "REDIS_URL is no address of a store", "write redis://HOST:PORT, or see docs/deploying.md")
        ]
    except redis.RedisError as error:
        return [_fail("store", f"{shown} does not answer: {error}", "start it, or correct REDIS_URL")]
    return judge_store(info, config, wants_cluster=is_cluster)


def _first_node(url: str) -> tuple[str, str, bool]:
    """The address to ask, the same without secrets, and whether a cluster is meant. Raises ValueError."""
    parts = urlsplit(url)
    scheme = parts.scheme.removesuffix("+cluster")
    is_cluster = scheme != parts.scheme
    if is_cluster:  # its first node is asked; the others are most often set up alike
        parts = parts._replace(scheme=scheme, netloc=parts.netloc.partition(",")[0])
        url = urlunsplit(parts)
    shown = f"{scheme}://{parts.hostname or parts.path}" + (f":{parts.port}" if parts.port else "")
    return url, shown, is_cluster


def judge_store(info: Mapping[str, object], config: Mapping[str, str], *, wants_cluster: bool = False) -> list[Check]:
    """info: INFO, as redis-py gives it; config: CONFIG GET, empty where it is forbidden."""
    name = str(info.get("server_name", "redis"))
    version = info.get("valkey_version", info.get("redis_version", "of an unknown version"))
    return [
        _ok("store", f"{name} {version}"),
        *_judge_persistence(info, config),
        _judge_snapshot(str(info.get("rdb_last_bgsave_status", "ok")), config),
        _judge_policy(config.get("maxmemory-policy", str(info.get("maxmemory_policy", "unknown")))),
        _judge_memory(_number(info, "used_memory"), _number(info, "maxmemory")),
        _judge_role(str(info.get("role", "master"))),
        _judge_cluster(bool(_number(info, "cluster_enabled")), wants_cluster),
    ]


def _judge_persistence(info: Mapping[str, object], config: Mapping[str, str]) -> list[Check]:
    if not _number(info, "aof_enabled"):
        return [_fail("appendonly", "no: a restart of the store loses what was acknowledged", "set `appendonly yes`")]
    failed = [name for name in ("aof_last_write_status", "aof_last_bgrewrite_status") if info.get(name, "ok") != "ok"]
    if failed:
        written = _fail("append-only file", f"{', '.join(failed)}: not ok", "look at the store's disk and at its log")
    else:
        written = _ok("append-only file", "the last write succeeded")
    return [_ok("appendonly", "yes"), _judge_fsync(config.get("appendfsync")), written]


def _judge_fsync(policy: str | None) -> Check:
    if policy == "always":
        return _ok("appendfsync", "always: what was acknowledged is on the disk")
    if policy == "everysec":
        lost = "everysec: up to a second of what was acknowledged can go"
        return _warn("appendfsync", lost, "set `appendfsync always`, unless that is acceptable")
    if policy is None:
        return _warn(
            "appendfsync", "not told: CONFIG is forbidden here", "ask who runs the store; it should be `always`"
        )
    return _fail("appendfsync", f"{policy}: the kernel decides when data reach the disk", "set `appendfsync always`")


def _judge_snapshot(status: str, config: Mapping[str, str]) -> Check:
    if status == "ok" or config.get("save") == "":
        return _ok("snapshots", "the last one succeeded" if status == "ok" else "none are wanted")
    mend = 'see the store\'s log; let it write to its `dir`, or, with the append-only file on, set `save ""`'
    if config.get("stop-writes-on-bgsave-error") == "no":
        return _warn("snapshots", "the last one failed", mend)
    return _fail("snapshots", "the last one failed, so every write is refused (MISCONF)", mend)


def _judge_policy(policy: str) -> Check:
    if policy == "noeviction":
        return _ok("maxmemory-policy", policy)
    return _fail("maxmemory-policy", f"{policy}: a full store may drop runs", "set `maxmemory-policy noeviction`")


def _judge_memory(used: int, most: int) -> Check:
    if not most:
        return _ok("memory", f"{_size(used)} used, no maxmemory")
    found = f"{_size(used)} of {_size(most)} used"
    mend = "raise maxmemory, or keep less: `steadynorm retain`, STEADYNORM_RETENTION_DAYS"
    if used >= most:
        return _fail("memory", found, mend)
    return _warn("memory", found, mend) if used > _MEMORY_WARNING * most else _ok("memory", found)


def _judge_role(role: str) -> Check:
    if role == "master":
        return _ok("role", "master: takes writes")
    return _fail("role", f"{role}: it refuses writes, or loses them", "let REDIS_URL name the master")


def _judge_cluster(is_cluster: bool, wanted: bool) -> Check:
    if is_cluster == wanted:
        return _ok("cluster", "yes; the first node of REDIS_URL was asked" if is_cluster else "no")
    if is_cluster:
        return _fail("cluster", "yes, and REDIS_URL does not say so", "write redis+cluster://HOST:PORT there")
    return _fail("cluster", "no, and REDIS_URL says so", "write redis://HOST:PORT there")


def judge_disk(folder: Path) -> Check | None:
    """Free space where `folder` is; None where there is no such folder."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    found = f"{_size(free)} free in {folder}"
    mend = "free some: a store that cannot write ends itself"
    if free < _DISK_FAILURE_BYTES:
        return _fail("disk", found, mend)
    return _warn("disk", found, mend) if free < _DISK_WARNING_BYTES else _ok("disk", found)


def _number(info: Mapping[str, object], name: str) -> int:
    return int(str(info.get(name, 0)))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
