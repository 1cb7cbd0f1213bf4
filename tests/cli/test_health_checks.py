"""What the checks of `steadynorm doctor` conclude from plain values."""

from __future__ import annotations

import msgspec
import pytest

from steadynorm_cli.health_checks import (
    Verdict,
    check_clock,
    check_redis,
    check_redis_info,
    check_run,
    check_store,
    check_version,
)
from steadynorm_contract.runs import RunDetail

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


STORE = """# TYPE steadynorm_store_memory_bytes gauge
steadynorm_store_memory_bytes 5.36870912e+08
steadynorm_store_memory_max_bytes 1.073741824e+09
steadynorm_store_evicts 0.0
steadynorm_store_shortfall_bytes 0.0
"""


def test_what_the_server_knows_of_its_store_is_judged() -> None:
    (sound,) = check_store(STORE)
    assert (sound.verdict, sound.detail) == (Verdict.OK, "512.0 MiB of 1.0 GiB used")
    wrong = STORE.replace("evicts 0.0", "evicts 1.0").replace("shortfall_bytes 0.0", "shortfall_bytes 2.147483648e+09")
    assert [(each.check, each.verdict) for each in check_store(wrong)] == [
        ("store memory", Verdict.OK),
        ("store eviction", Verdict.FAIL),
        ("store size", Verdict.WARN),
    ]
    assert "2.0 GiB" in check_store(wrong)[2].detail
    (unknown,) = check_store("steadynorm_store_memory_bytes NaN\n")
    assert (unknown.verdict, unknown.fix) == (Verdict.WARN, "permit its Redis user `+info`")


def test_a_password_with_a_comma_does_not_hide_the_nodes_of_a_cluster() -> None:
    (found,) = check_redis("redis+cluster://ada:se,cret@127.0.0.1:1,127.0.0.1:2")
    assert found.detail.startswith("redis+cluster://127.0.0.1:1,127.0.0.1:2: Redis does not answer")
    assert "connecting to 127.0.0.1:1" in found.detail
    assert "cret" not in found.detail


def test_what_an_agent_found_in_its_loop_is_a_warning_each(pytestconfig: pytest.Config) -> None:
    golden = pytestconfig.rootpath / "tests" / "contract" / "golden" / "run.json"
    run = msgspec.json.decode(golden.read_bytes(), type=RunDetail)
    checks = check_run(run)
    assert [(each.verdict, each.detail) for each in checks] == [
        (Verdict.OK, "2 of 2 tensors"),
        (Verdict.WARN, "a finding."),
    ]
    (nothing,) = check_run(msgspec.structs.replace(run, self_check="", findings=[]))
    assert nothing.verdict is Verdict.OK
    assert "second step" in nothing.detail
