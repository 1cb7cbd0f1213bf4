"""Old runs go, with all their data; who is heard of or paused stays; what an operator sets for one run holds for it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest
import redis
from tests.support.server import all_runs

from steadynorm_contract.codec import encode_json
from steadynorm_server.config import ServerConfig
from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.retention import trimming
from steadynorm_server.retention.policy import Limits, delete_expired
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository

DAY_S = 86_400
FOR_A_WEEK = Limits(keep_days=7)


async def retain(agent: Any, **wanted: Any) -> httpx.Response:
    answer: httpx.Response = await agent.client.put(f"{agent.run}/retention", content=encode_json(wanted))
    return answer


async def test_runs_that_were_silent_for_longer_are_removed_whole(
    repository: RunRepository, api: httpx.AsyncClient, make_agent: Any, clock: Any, store_url: str
) -> None:
    old, fresh = (make_agent(api, run_id=name) for name in ("old", "fresh"))
    await old.register()
    await old.send([1], rows=old.rows([1], [[[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]]))
    await old.change(0, {"gamma2": 0.9})
    assert (await retain(old, max_mib=2)).status_code == 200
    clock.now += 8 * DAY_S
    await fresh.register()
    assert await delete_expired(repository, await all_runs(repository), Limits()) == []
    assert await delete_expired(repository, await all_runs(repository), Limits(keep_days=9)) == []
    assert await delete_expired(repository, await all_runs(repository), FOR_A_WEEK) == ["old"]
    assert [run["run_id"] for run in (await api.get("/runs")).json()["runs"]] == ["fresh"]
    with redis.Redis.from_url(store_url, protocol=2) as client:
        assert client.keys("steadynorm:{old}:*") == []


async def listens(repository: RunRepository, until: float) -> None:
    """As a wait for settings does that ends at this Unix second."""
    await repository.redis.script("desired_settings", [RunKeys("tiny-1").run], repr(until))


@pytest.mark.parametrize("meanwhile", ["telemetry", "listening", "a pause", "more time"])
async def test_a_run_that_is_heard_of_or_changed_meanwhile_stays(
    repository: RunRepository, agent: Any, clock: Any, meanwhile: str
) -> None:
    await agent.send([1])
    clock.now += 8 * DAY_S
    judged = await all_runs(repository)
    match meanwhile:
        case "telemetry":
            await agent.send([2])
        case "listening":
            await listens(repository, clock.now + 25)
        case "a pause":
            assert (await agent.change(0, {"paused": True})).status_code == 200
        case _:
            assert (await retain(agent, keep_days=30)).status_code == 200
    assert await delete_expired(repository, judged, FOR_A_WEEK) == []
    assert await delete_expired(repository, await all_runs(repository), FOR_A_WEEK) == []
    assert (await agent.get())["run_id"] == "tiny-1"


async def test_a_paused_run_stays_however_silent_it_is_until_it_is_resumed_or_ends(
    repository: RunRepository, agent: Any, clock: Any
) -> None:
    await agent.send([1])
    await agent.change(0, {"paused": True})
    clock.now += 400 * DAY_S
    assert (await agent.get("/retention"))["expires"] is None
    assert await delete_expired(repository, await all_runs(repository), FOR_A_WEEK) == []
    await agent.change(1, {"paused": False})
    assert await delete_expired(repository, await all_runs(repository), FOR_A_WEEK) == ["tiny-1"]


async def test_a_run_that_ended_paused_is_kept_from_its_end_on(
    repository: RunRepository, agent: Any, clock: Any
) -> None:
    await agent.send([1])
    await agent.change(0, {"paused": True})
    await listens(repository, clock.now + 90 * DAY_S)
    clock.now += 30 * DAY_S
    await agent.client.post(f"{agent.run}/finish", content=b'{"state": "stopped"}')
    clock.now += 6.9 * DAY_S
    assert await delete_expired(repository, await all_runs(repository), FOR_A_WEEK) == []
    clock.now += 0.2 * DAY_S
    assert await delete_expired(repository, await all_runs(repository), FOR_A_WEEK) == ["tiny-1"]


async def test_what_is_set_for_a_run_is_told_with_who_set_it_and_what_is_in_force(
    serve: Any, make_agent: Any, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    agent = make_agent(await serve(retention_days=30, run_mib=32))
    await agent.register()
    none = {"max_mib": None, "keep_days": None}
    before = await agent.get("/retention")
    assert (before["revision"], before["own"], before["changes"]) == (0, none, [])
    assert (before["effective"], before["ceiling_mib"]) == ({"max_mib": 32.0, "keep_days": 30.0}, 32.0)
    assert before["expires"] == clock.now + 30 * DAY_S
    with caplog.at_level(logging.WARNING, "steadynorm_server"):
        answer = await retain(agent, max_mib=16, keep_days=90, reason="a sweep's run", revision=0)
    assert answer.json() == await agent.get("/retention")
    assert answer.json() == before | {
        "revision": 1,
        "own": {"max_mib": 16.0, "keep_days": 90.0},
        "effective": {"max_mib": 16.0, "keep_days": 90.0},
        "expires": clock.now + 90 * DAY_S,
        "changes": [
            {"time": clock.now, "actor": "local", "reason": "a sweep's run", "before": none,
             "after": {"max_mib": 16.0, "keep_days": 90.0}}
        ],
    }  # fmt: skip
    told = "run tiny-1: its retention was set to 16 MiB, 90 days by 'local'"
    assert [record.getMessage() for record in caplog.records] == [told]
    assert (await retain(agent, max_mib=16, keep_days=90)).json()["revision"] == 1  # nothing changed
    assert (await retain(agent, revision=0)).status_code == 412
    back = (await retain(agent, revision=1)).json()
    assert (back["effective"], back["revision"]) == (before["effective"], 2)
    assert [change["reason"] for change in back["changes"]] == ["", "a sweep's run"]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"max_mib": 64.5}, "max_mib must be default or from 1 to 64: got 64.5"),
        ({"max_mib": 0.5}, "max_mib must be default or from 1 to 64: got 0.5"),
        ({"keep_days": 0}, "keep_days must be default or from 0.1 to 36500: got 0"),
        ({"keep_days": 1e300}, "keep_days must be default or from 0.1 to 36500: got 1e+300"),
        ({"max_mib": -1, "keep_days": -1}, "keep_days must be default or from 0.1 to 36500: got -1"),
        ({"reason": "x" * 501}, "reason must have at most 500 characters"),
    ],
)
async def test_a_value_that_cannot_be_is_told_its_rule_and_changes_nothing(
    agent: Any, wanted: dict[str, Any], told: str
) -> None:
    answer = await retain(agent, **wanted)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]
    assert (await retain(agent, max_mb=1)).status_code == 400
    assert (await agent.get("/retention"))["revision"] == 0


async def test_no_run_takes_more_than_the_ceiling_whatever_was_set_for_it(serve: Any, make_agent: Any) -> None:
    generous = make_agent(await serve(run_mib=32, run_mib_ceiling=256))
    await generous.register()
    own = (await retain(generous, max_mib=256)).json()
    assert (own["effective"]["max_mib"], own["ceiling_mib"]) == (256.0, 256.0)
    assert (await retain(generous, max_mib=257)).status_code == 422
    run = await generous.client.app.state.repository.get("tiny-1")
    assert generous.client.app.state.limits.budget_factor(run) == 4.0
    frugal = make_agent(await serve(run_mib=32, run_mib_ceiling=128))
    now = await frugal.get("/retention")
    assert (now["own"]["max_mib"], now["effective"]["max_mib"]) == (256.0, 128.0)
    assert Limits.from_config(ServerConfig(run_mib=32, run_mib_ceiling=16)).ceiling_mib == 32


@pytest.mark.usefixtures("without_sweeper")
async def test_size_and_age_follow_what_was_set_for_each_run(
    repository: RunRepository, api: httpx.AsyncClient, make_agent: Any, clock: Any
) -> None:
    small, usual = (make_agent(api, run_id=name) for name in ("small", "usual"))
    for agent in (small, usual):
        await agent.register()
        for first in range(1, 16_000, 1000):
            steps = range(first, first + 1000)
            rows = agent.rows(steps[::4], [[[1.0] * 5] * 2] * 250)
            await agent.send(steps, raw_norm=[99.0 if step == 77 else 1.0 for step in steps], rows=rows)
    took = (await usual.get())["redis_bytes"]
    assert took > 1.1 * 2**20
    assert (await retain(small, max_mib=1, keep_days=3)).status_code == 200
    assert await trimming.enforce_size_limit(repository, await all_runs(repository), Limits()) == ["small"]
    assert (await small.get())["redis_bytes"] <= 2**20
    assert (await usual.get())["redis_bytes"] == took
    (series,) = (await small.get("/series", name="raw_norm"))["series"].values()
    assert (sum(series["count"]), max(series["max"])) == (16_000, 99.0)
    clock.now += 4 * DAY_S
    assert await delete_expired(repository, await all_runs(repository), Limits()) == ["small"]
    assert await delete_expired(repository, await all_runs(repository), FOR_A_WEEK) == []


async def test_a_batch_that_comes_next_is_stored_by_the_new_limit(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process remembers of a run between batches is dropped when its retention changes."""
    seen = []

    def budget_factor(_: Limits, run: RunRecord) -> float:
        seen.append(bool(run.retention))
        return 1.0

    await agent.send([1])
    monkeypatch.setattr(Limits, "budget_factor", budget_factor)
    await agent.send([2])
    await retain(agent, keep_days=2)
    await agent.send([3])
    assert seen == [False, False, True]  # the second of them was a guess that the store refused


async def test_a_server_that_starts_removes_and_trims_by_these_limits(
    serve: Any, make_agent: Any, clock: Any, repository: RunRepository
) -> None:
    api = await serve()
    gone, kept = (make_agent(api, run_id=name) for name in ("gone", "kept"))
    for agent in (gone, kept):
        await agent.register()
    for first in range(1, 20_000, 2000):
        await kept.send(range(first, first + 2000))
    large = (await kept.get())["redis_bytes"]
    assert large > 2**20
    await retain(kept, keep_days=365, max_mib=1)
    clock.now += 31 * DAY_S
    await serve(retention_days=30)
    async with asyncio.timeout(15):
        while len(await all_runs(repository)) > 1 or (await repository.get("kept")).redis_bytes == large:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # nothing tells of a sweep
    assert [(run.run_id, run.redis_bytes <= 2**20) for run in await all_runs(repository)] == [("kept", True)]
