"""The checks of `steadynorm doctor`: server, version, token, clock, Redis and disk.

`check_server` and `check_redis` connect and never raise: no answer is a failed check. The others judge plain values.
"""

import re
import shutil
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import urllib3

from steadynorm_contract import __version__
from steadynorm_contract.client import Client, ClientError, Unauthorized
from steadynorm_contract.problems import Problem
from steadynorm_contract.runs import RunDetail

_TIMEOUT_S = 5.0
_LOOP = "training loop"
_SLOW_S = 0.5
_MAX_CLOCK_DIFFERENCE_S = 2.0
_MEMORY_WARNING = 0.8  # of maxmemory
_DISK_WARNING_BYTES = 2**30
_DISK_FAILURE_BYTES = 64 * 2**20


class Verdict(StrEnum):
    """Outcome of a check; only `fail` makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(msgspec.Struct, frozen=True):
    """A check's outcome, and what to fix unless it is ok."""

    check: str
    verdict: Verdict
    detail: str
    fix: str = ""


class _Description(msgspec.Struct):
    """The part of openapi.json that is used here."""

    info: dict[str, object]


def _ok(check: str, detail: str) -> Check:
    return Check(check, Verdict.OK, detail)


def _warn(check: str, detail: str, fix: str) -> Check:
    return Check(check, Verdict.WARN, detail, fix)


def _fail(check: str, detail: str, fix: str) -> Check:
    return Check(check, Verdict.FAIL, detail, fix)


def check_server(client: Client) -> list[Check]:
    """Whether the server answers and is ready, has our version and clock, and accepts the token."""
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
                    f"no answer at {client.server} ({type(error).__name__})",
                    "start one with `steadynorm up`, or give its address with --server or STEADYNORM_SERVER",
                )
            ]
    return [
        _check_readiness(client.server, answer.status, after - before, answer.data),
        check_version(_version_of(described.data)),
        _check_token(client),
        check_clock(answer.headers.get("Date"), before, after),
        *_check_store(client),
    ]


def _check_readiness(server: str, status: int, took_s: float, problem: bytes) -> Check:
    detail = f"{server} answered {status} in {took_s * 1000:.0f} ms"
    if status == 503:
        try:
            reason = msgspec.json.decode(problem, type=Problem).detail
        except msgspec.MsgspecError:
            reason = "its Redis does not answer"
        return _fail("server", f"{detail}: {reason}", "check Redis and the server's log")
    if status != 200:
        return _fail("server", detail, "this is no steadynorm server, or a proxy blocks /readyz")
    if took_s > _SLOW_S:
        return _warn("server", detail, "the server, its Redis or the network is busy: check their load")
    return _ok("server", detail)


def _check_store(client: Client) -> list[Check]:
    try:
        return check_store(client.metrics())
    except ClientError as error:
        return [_warn("store memory", f"unknown: {error}", "give doctor a viewer's or operator's token")]


def check_store(metrics: str) -> list[Check]:
    """metrics: /metrics of the server, which knows the memory of its Redis and what its runs may come to."""
    known = {
        name: float(value)
        for name, value in re.findall(r"^steadynorm_store_(\w+) (\S+)$", metrics, re.MULTILINE)
        if value != "NaN"
    }
    if "memory_bytes" not in known:
        return [_warn("store memory", "the server does not know it", "permit its Redis user `+info`")]
    used, most = int(known["memory_bytes"]), int(known.get("memory_max_bytes", 0))
    checks = [msgspec.structs.replace(_check_memory(used, most), check="store memory")]
    if known.get("evicts"):
        fix = "set `maxmemory-policy noeviction`"
        checks.append(_fail("store eviction", "when full, the server's Redis removes runs", fix))
    if missing := int(known.get("shortfall_bytes", 0)):
        fix = "give Redis more memory, lower STEADYNORM_RUN_MIB, or set STEADYNORM_RETENTION_DAYS"
        checks.append(_warn("store size", f"live runs may outgrow it by {_size(missing)}", fix))
    return checks


def _version_of(data: bytes) -> str | None:
    try:
        return str(msgspec.json.decode(data, type=_Description).info.get("version"))
    except msgspec.MsgspecError:
        return None


def check_version(server: str | None, own: str = __version__) -> Check:
    """server: the version that the server reports; None: it reports none."""
    if server is None:
        return _warn("version", f"here {own}; the server reports none", "let the proxy pass /openapi.json")
    if server != own:
        return _warn(
            "version",
            f"here {own}, the server {server}",
            f"pip install steadynorm=={server} here, or update the server",
        )
    return _ok("version", f"{own}, here and on the server")


def _check_token(client: Client) -> Check:
    try:
        me = client.me()
    except Unauthorized as error:
        return _fail("token", str(error), "set STEADYNORM_TOKEN to a token of this server")
    except ClientError as error:
        return _fail("token", str(error), "check the server's log")
    bound = "" if me.runs is None else f", for runs {', '.join(me.runs)}"
    return _ok("token", f"{me.name}: {', '.join(me.roles)}{bound}")


def check_clock(date: str | None, before: float, after: float) -> Check:
    """date: the response's Date header, in whole seconds; before, after: our Unix time around the request."""
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return _warn("clock", "the server's response has no date", "let the proxy pass the Date header")
    # The header is truncated to a second and made while we waited: only the rest is a difference.
    difference = max(theirs - after, before - (theirs + 1), 0.0)
    detail = f"differs by {difference:.1f} s from the server's"
    if difference > _MAX_CLOCK_DIFFERENCE_S:
        return _warn("clock", detail, "synchronize both machines with NTP: times of runs and of stalls are off by this")
    return _ok("clock", "agrees with the server's")


def check_run(run: RunDetail) -> list[Check]:
    """What the run's agent found out about its training loop."""
    if not run.self_check and not run.findings:
        return [_ok(_LOOP, "the agent has reported nothing yet: it does so at its second step")]
    return [_ok(_LOOP, run.self_check or "see below"), *(_warn(_LOOP, finding, "") for finding in run.findings)]


def check_redis(url: str) -> list[Check]:
    """Check the Redis at `url`. Needs the server's packages."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from steadynorm_server.redis.address import RedisAddressError, StoreAddress
    from steadynorm_server.redis_errors import explain

    patience: dict[str, Any] = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
    patience["retry"] = Retry(NoBackoff(), 0)
    try:
        address = StoreAddress.parse(url)
    except RedisAddressError as error:
        return [_fail("redis", str(error), "see docs/deploying.md")]
    try:
        node = None
        if address.kind == "sentinel":  # the primary is checked
            options = {**patience, **address.sentinel_options()}
            sentinels: Any = redis.Sentinel(address.nodes, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
            node = sentinels.discover_master(address.service)
        # Of a cluster the first node is; the others usually have the same configuration.
        with redis.Redis.from_url(address.url_of(node), protocol=2, **patience) as client:
            info: dict[str, object] = client.info()
            try:
                asked = ("append*", "maxmemory*", "save", "stop-writes-on-bgsave-error")
                config = {str(key): str(value) for key, value in client.config_get(*asked).items()}
            except redis.ResponseError:  # managed services forbid CONFIG
                config = {}
    except (redis.RedisError, OSError) as error:
        return [_fail("redis", f"{address.shown}: {explain(error)}", "start it, permit it, or correct REDIS_URL")]
    return check_redis_info(info, config, expect_cluster=address.kind == "cluster")


def check_redis_info(
    info: Mapping[str, object], config: Mapping[str, str], *, expect_cluster: bool = False
) -> list[Check]:
    """info: INFO as redis-py returns it; config: CONFIG GET, empty where it is forbidden."""
    name = str(info.get("server_name", "redis"))
    version = info.get("valkey_version", info.get("redis_version", "of an unknown version"))
    return [
        _ok("redis", f"{name} {version}"),
        *_check_persistence(info, config),
        _check_snapshot(str(info.get("rdb_last_bgsave_status", "ok")), config),
        _check_policy(config.get("maxmemory-policy", str(info.get("maxmemory_policy", "unknown")))),
        _check_memory(_number(info, "used_memory"), _number(info, "maxmemory")),
        _check_role(str(info.get("role", "master"))),
        _check_cluster(bool(_number(info, "cluster_enabled")), expect_cluster),
    ]


def _check_persistence(info: Mapping[str, object], config: Mapping[str, str]) -> list[Check]:
    if not _number(info, "aof_enabled"):
        return [_fail("appendonly", "no: a restart of Redis loses acknowledged data", "set `appendonly yes`")]
    failed = [name for name in ("aof_last_write_status", "aof_last_bgrewrite_status") if info.get(name, "ok") != "ok"]
    if failed:
        written = _fail("append-only file", f"{', '.join(failed)}: not ok", "check the disk and the log of Redis")
    else:
        written = _ok("append-only file", "the last write succeeded")
    return [_ok("appendonly", "yes"), _check_fsync(config.get("appendfsync")), written]


def _check_fsync(policy: str | None) -> Check:
    if policy == "always":
        return _ok("appendfsync", "always: acknowledged data are on disk")
    if policy == "everysec":
        lost = "everysec: up to a second of acknowledged data can be lost"
        return _warn("appendfsync", lost, "set `appendfsync always`, unless that is acceptable")
    if policy is None:
        return _warn(
            "appendfsync", "unknown: CONFIG is forbidden", "ask your Redis administrator; it should be `always`"
        )
    return _fail("appendfsync", f"{policy}: the kernel decides when data reach the disk", "set `appendfsync always`")


def _check_snapshot(status: str, config: Mapping[str, str]) -> Check:
    if status == "ok" or config.get("save") == "":
        return _ok("snapshots", "the last one succeeded" if status == "ok" else "disabled")
    fix = 'check the Redis log; make its `dir` writable, or, with the append-only file on, set `save ""`'
    if config.get("stop-writes-on-bgsave-error") == "no":
        return _warn("snapshots", "the last one failed", fix)
    return _fail("snapshots", "the last one failed, so every write is refused (MISCONF)", fix)


def _check_policy(policy: str) -> Check:
    if policy == "noeviction":
        return _ok("maxmemory-policy", policy)
    return _fail("maxmemory-policy", f"{policy}: when full, Redis may evict runs", "set `maxmemory-policy noeviction`")


def _check_memory(used: int, most: int) -> Check:
    if not most:
        return _ok("memory", f"{_size(used)} used, no maxmemory")
    detail = f"{_size(used)} of {_size(most)} used"
    fix = "raise maxmemory, or store less: `steadynorm retain`, STEADYNORM_RETENTION_DAYS"
    if used >= most:
        return _fail("memory", detail, fix)
    return _warn("memory", detail, fix) if used > _MEMORY_WARNING * most else _ok("memory", detail)


def _check_role(role: str) -> Check:
    if role == "master":
        return _ok("role", "primary: accepts writes")
    return _fail("role", f"{role}: it rejects writes, or loses them", "set REDIS_URL to the primary")


def _check_cluster(is_cluster: bool, expected: bool) -> Check:
    if is_cluster == expected:
        return _ok("cluster", "yes; the first node of REDIS_URL was checked" if is_cluster else "no")
    if is_cluster:
        return _fail("cluster", "yes, but REDIS_URL is not a cluster address", "use redis+cluster://HOST:PORT")
    return _fail("cluster", "no, but REDIS_URL is a cluster address", "use redis://HOST:PORT")


def check_disk(folder: Path) -> Check | None:
    """Free space where `folder` is; None where there is no such folder."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    detail = f"{_size(free)} free in {folder}"
    fix = "free some space: Redis stops when it cannot write"
    if free < _DISK_FAILURE_BYTES:
        return _fail("disk", detail, fix)
    return _warn("disk", detail, fix) if free < _DISK_WARNING_BYTES else _ok("disk", detail)


def _number(info: Mapping[str, object], name: str) -> int:
    return int(str(info.get(name, 0)))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
