"""What the checks of `steadynorm doctor` conclude from plain values."""

from __future__ import annotations

import pytest

from steadynorm_cli.health_checks import Verdict, check_clock, check_redis_info, check_version

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
    assert check_clock(date, before, before + 0.1).verdict is verdict


def test_versions_that_differ_are_a_warning() -> None:
    assert check_version("0.1.0", "0.1.0").verdict is Verdict.OK
    assert check_version("0.2.0", "0.1.0").verdict is Verdict.WARN
    assert check_version(None).verdict is Verdict.WARN


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
    assert all(each.verdict is Verdict.OK for each in check_redis_info(SOUND, CONFIG))
    wrong = [each for each in check_redis_info(SOUND | changed, CONFIG) if each.verdict is not Verdict.OK]
    assert [(each.check, each.verdict) for each in wrong] == [(check, verdict)]
    assert wrong[0].fix


def test_a_snapshot_that_failed_matters_as_much_as_it_stops_writes() -> None:
    failed = SOUND | {"rdb_last_bgsave_status": "err"}
    for more, verdict in (
        ({"save": "", "stop-writes-on-bgsave-error": "yes"}, Verdict.OK),
        ({"save": "3600 1", "stop-writes-on-bgsave-error": "no"}, Verdict.WARN),
        ({"save": "3600 1", "stop-writes-on-bgsave-error": "yes"}, Verdict.FAIL),
    ):
        found = {each.check: each.verdict for each in check_redis_info(failed, CONFIG | more)}
        assert found["snapshots"] is verdict


def test_a_store_that_forbids_config_leaves_the_sync_open() -> None:
    checks = check_redis_info(SOUND | {"maxmemory_policy": "noeviction"}, {})
    assert [each.check for each in checks if each.verdict is not Verdict.OK] == ["appendfsync"]
