"""`steadynorm doctor` on a healthy house, on stores that are set up badly, and its judgements."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from steadynorm_cli.health_checks import Verdict, judge_clock, judge_store, judge_version

if TYPE_CHECKING:
    from tests.support.local_server import RunningHouse
    from tests.support.waiting import Eventually


def doctor(house: RunningHouse, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "steadynorm_cli", "doctor", *arguments],
        env={**house.environment, **variables}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def findings_of(ended: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {each["check"]: each for each in json.loads(ended.stdout)["findings"]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def careless(tmp_path: Path, eventually: Eventually) -> Iterator[str]:
    """Address of a store that keeps nothing on the disk and drops what it likes."""
    binary = shutil.which("redis-server")
    assert binary, "these tests need redis-server: apt-get install redis-server"
    path = tmp_path / "s"
    options = {
        "port": "0", "bind": "127.0.0.1", "unixsocket": str(path), "dir": str(tmp_path), "save": "",
        "logfile": str(tmp_path / "log"),
        "appendonly": "no", "maxmemory": "64mb", "maxmemory-policy": "allkeys-lru",
    }  # fmt: skip
    process = subprocess.Popen([binary, *(part for name, value in options.items() for part in (f"--{name}", value))])
    try:
        eventually(path.is_socket)
        yield f"unix://{path}"
    finally:
        process.terminate()
        process.wait()


def test_a_house_as_it_comes_fails_no_check(house: RunningHouse) -> None:
    ended = doctor(house, "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    findings = findings_of(ended)
    for check in ("server", "version", "token", "clock", "store", "appendonly", "appendfsync", "maxmemory-policy"):
        assert findings[check]["verdict"] == "ok", findings[check]
    assert "operator" in findings["token"]["found"]
    assert {"append-only file", "memory", "role", "cluster", "disk"} <= findings.keys()


def test_a_careless_store_fails_and_each_line_says_what_to_mend(house: RunningHouse, careless: str) -> None:
    ended = doctor(house, REDIS_URL=careless)
    assert ended.returncode == 1
    failed = [line for line in ended.stdout.splitlines() if line.startswith("fail")]
    assert [line.split()[1] for line in failed] == ["appendonly", "maxmemory-policy"]
    assert "→ set `appendonly yes`" in failed[0]
    assert "allkeys-lru" in failed[1]
    assert "→ set `maxmemory-policy noeviction`" in failed[1]


def test_a_store_that_loses_a_second_is_a_warning_and_one_that_loses_more_a_failure(
    house: RunningHouse, careless: str
) -> None:
    with redis.Redis.from_url(careless, protocol=2) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "yes")
        client.config_set("appendfsync", "everysec")
        ended = doctor(house, "--redis", careless, "--json")
        assert ended.returncode == 0, ended.stdout
        assert findings_of(ended)["appendfsync"]["verdict"] == "warn"
        client.config_set("appendfsync", "no")
    ended = doctor(house, "--redis", careless, "--json")
    assert ended.returncode == 1
    assert findings_of(ended)["appendfsync"]["verdict"] == "fail"


def test_a_wrong_token_a_store_that_is_away_and_no_server_are_failures(house: RunningHouse, tmp_path: Path) -> None:
    ended = doctor(house, "--redis", f"unix://{tmp_path}/none", "--json", STEADYNORM_TOKEN="unknown")
    assert ended.returncode == 1
    findings = findings_of(ended)
    assert findings["token"]["verdict"] == findings["store"]["verdict"] == "fail"
    assert findings["server"]["verdict"] == "ok"
    ended = doctor(house, "--server", "http://127.0.0.1:9")
    assert ended.returncode == 1
    assert ended.stdout.startswith("fail  server")
    assert "steadynorm up" in ended.stdout


def test_a_stores_password_is_not_printed(house: RunningHouse) -> None:
    ended = doctor(house, REDIS_URL="redis://me:hush@127.0.0.1:9/0")
    assert ended.returncode == 1
    assert "127.0.0.1:9" in ended.stdout
    assert "hush" not in ended.stdout + ended.stderr
    ended = doctor(house, REDIS_URL="redis://me:hush/hush@127.0.0.1:9/0")
    assert ended.returncode == 1
    assert "hush" not in ended.stdout + ended.stderr


def test_a_store_that_is_no_cluster_though_its_address_says_so_is_a_failure(house: RunningHouse, careless: str) -> None:
    with redis.Redis.from_url(careless, protocol=2) as client:
        client.config_set("port", str(port := _free_port()))
        client.config_set("appendonly", "yes")
        client.config_set("maxmemory-policy", "noeviction")
    ended = doctor(house, "--redis", f"redis+cluster://127.0.0.1:{port},127.0.0.1:9", "--json")
    assert ended.returncode == 1
    failed = [check for check, each in findings_of(ended).items() if each["verdict"] == "fail"]
    assert failed == ["cluster"]


DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
MOMENT = 784_111_777.0


@pytest.mark.parametrize(
    ("date", "before", "verdict"),
    [
        (DATE, MOMENT + 0.9, Verdict.OK),
        (DATE, MOMENT + 3.5, Verdict.WARN),
        (DATE, MOMENT - 2.5, Verdict.WARN),
        (DATE, MOMENT - 1.5, Verdict.OK),
        (None, MOMENT, Verdict.WARN),
        ("yesterday", MOMENT, Verdict.WARN),
    ],
)
def test_a_clock_is_judged_by_what_neither_rounding_nor_waiting_explains(
    date: str | None, before: float, verdict: Verdict
) -> None:
    assert judge_clock(date, before, before + 0.1).verdict is verdict


def test_versions_that_differ_are_a_warning() -> None:
    assert judge_version("0.1.0", "0.1.0").verdict is Verdict.OK
    assert judge_version("0.2.0", "0.1.0").verdict is Verdict.WARN
    assert judge_version(None).verdict is Verdict.WARN


SOUND: dict[str, object] = {
    "redis_version": "7.0.15", "aof_enabled": 1, "aof_last_write_status": "ok", "role": "master",
    "used_memory": 10, "maxmemory": 100, "cluster_enabled": 0,
}  # fmt: skip
CONFIG = {"appendfsync": "always", "maxmemory-policy": "noeviction"}


@pytest.mark.parametrize(
    ("changed", "check", "verdict"),
    [
        ({"role": "slave"}, "role", Verdict.FAIL),
        ({"aof_last_write_status": "err"}, "append-only file", Verdict.FAIL),
        ({"used_memory": 90}, "memory", Verdict.WARN),
        ({"used_memory": 100}, "memory", Verdict.FAIL),
        ({"cluster_enabled": 1}, "cluster", Verdict.FAIL),
        ({"rdb_last_bgsave_status": "err"}, "snapshots", Verdict.FAIL),
    ],
)
def test_what_is_wrong_with_a_store_is_the_one_finding(
    changed: dict[str, object], check: str, verdict: Verdict
) -> None:
    assert all(each.verdict is Verdict.OK for each in judge_store(SOUND, CONFIG))
    wrong = [each for each in judge_store(SOUND | changed, CONFIG) if each.verdict is not Verdict.OK]
    assert [(each.check, each.verdict) for each in wrong] == [(check, verdict)]
    assert wrong[0].mend


def test_a_snapshot_that_failed_matters_as_much_as_it_stops_writes() -> None:
    failed = SOUND | {"rdb_last_bgsave_status": "err"}
    for more, verdict in (
        ({"save": "", "stop-writes-on-bgsave-error": "yes"}, Verdict.OK),
        ({"save": "3600 1", "stop-writes-on-bgsave-error": "no"}, Verdict.WARN),
        ({"save": "3600 1", "stop-writes-on-bgsave-error": "yes"}, Verdict.FAIL),
    ):
        found = {each.check: each.verdict for each in judge_store(failed, CONFIG | more)}
        assert found["snapshots"] is verdict


def test_a_store_that_forbids_config_leaves_the_sync_open() -> None:
    findings = judge_store(SOUND | {"maxmemory_policy": "noeviction"}, {})
    assert [each.check for each in findings if each.verdict is not Verdict.OK] == ["appendfsync"]
