"""A run takes what it may and no more: its finest past goes first, its extremes and its whole length stay."""

from __future__ import annotations

import io
import logging
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import redis
from tests.support.server import all_runs

from steadynorm_server.retention import trimming
from steadynorm_server.retention.policy import Limits
from steadynorm_server.retention.trimming import enforce_size_limit, trim
from steadynorm_server.runs.repository import RunRepository

STEPS, SPIKE, BATCH = 12_000, 3_333, 600


@pytest.fixture
async def long(api: httpx.AsyncClient, make_agent: Any) -> Any:
    """A run of 12,000 steps, about 1 MB, with one spike early on, in the total and in a row."""
    agent = make_agent(api)
    await agent.register()
    for first in range(1, STEPS + 1, BATCH):
        steps = list(range(first, first + BATCH))
        norms = [1000.0 if step == SPIKE else 1.0 for step in steps]
        detailed = [step for step in steps if step % 4 == 0 or step == SPIKE]
        rows = [[[1.0] * 5, [1000.0 if step == SPIKE else 1.0, 1, 1, 1, 1]] for step in detailed]
        await agent.send(steps, raw_norm=norms, rows=agent.rows(detailed, rows))
    return agent


async def whole(agent: Any) -> None:
    """Every step is counted once, and the spike is there, whatever the resolution."""
    for points in (10, 1000):
        series = (await agent.get("/series", name=["raw_norm", "raw_norm/head.weight"], points=points))["series"]
        counts = [sum(each["count"]) for each in series.values()]
        assert counts[0] >= STEPS
        assert counts[1] == STEPS // 4 + 1
        assert [max(each["max"]) for each in series.values()] == [1000.0, 1000.0]
    answer = await agent.client.get(f"{agent.run}/export")
    assert sum(pq.read_table(io.BytesIO(answer.content))["count"].to_pylist()) == counts[0]


async def test_the_finest_of_the_past_goes_first_and_the_whole_remains(long: Any, repository: RunRepository) -> None:
    before = (await long.get())["redis_bytes"]
    assert before > 1_000_000
    for limit in (750_000, 200_000):
        assert await trim(repository, await repository.get("tiny-1"), limit) > 0
        run = await repository.get("tiny-1")
        assert limit * 0.7 < run.redis_bytes <= limit
        await whole(long)
        recent = (await long.get("/series", name="raw_norm", **{"from": STEPS - 100}))["series"]["raw_norm"]
        assert set(recent["count"]) == {1}  # single steps of the recent past
    assert run.trimmed["rows1"] > STEPS / 2
    assert "scalars4096" not in run.trimmed
    await long.send([STEPS + at for at in range(1, 5000)])  # the run goes on
    await whole(long)


async def test_what_is_kept_is_never_less_than_what_no_coarser_level_has(long: Any, repository: RunRepository) -> None:
    assert await trim(repository, await repository.get("tiny-1"), 0) > 0
    run = await repository.get("tiny-1")
    assert await trim(repository, run, 0) == 0
    assert 0 < run.redis_bytes < 100_000
    assert [level.name for level, _ in trimming._LEVELS] == [
        *("rows1", "logged1", "scalars1", "logged16", "scalars16", "rows256", "logged256", "scalars256", "rows4096"),
        *("rows65536", "logged4096", "scalars4096"),
    ]
    for tail in run.levels.values():
        assert tail.rolled < tail.next
    assert (await long.get("/series", name="raw_norm"))["series"]["raw_norm"]["step"][-1] > STEPS - 5000
    await long.send([STEPS + 1])
    assert (await long.get())["step"] == STEPS + 1


async def test_the_server_trims_what_takes_more_than_it_may(
    long: Any, repository: RunRepository, store_url: str
) -> None:
    assert await enforce_size_limit(repository, await all_runs(repository), Limits(64)) == []
    assert await enforce_size_limit(repository, await all_runs(repository), Limits(0.5)) == ["tiny-1"]
    assert await enforce_size_limit(repository, await all_runs(repository), Limits(0.5)) == []
    told = (await long.client.get("/runs")).json()["runs"][0]["redis_bytes"]
    assert told == (await long.get())["redis_bytes"] <= 2**19
    with redis.Redis.from_url(store_url, protocol=2) as client:
        keys = [key for key in client.keys("steadynorm:{tiny-1}:*") if b"history" in key]
        blocks = sum(len(fields[b"block"]) for key in keys for _, fields in client.xrange(key))
        taken = sum(client.memory_usage(key, samples=0) or 0 for key in keys)
    run = await repository.get("tiny-1")
    assert run.history_bytes == blocks
    assert taken < 1.5 * run.redis_bytes


async def test_each_level_has_its_part_of_what_a_run_may_take(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = agent.client.app.state
    repository = state.repository
    run = await repository.get("tiny-1")
    factors = [limits.budget_factor(run) for limits in (state.limits, Limits(16), Limits(128))]
    assert factors == [1.0, 1.0, 2.0]
    monkeypatch.setattr(Limits, "budget_factor", lambda *_: 0.01)
    for first in range(1, 4001, 100):
        await agent.send(range(first, first + 100))
    run = await repository.get("tiny-1")
    assert run.history_bytes < 100_000  # 4000 single steps alone are 256 kB
    assert run.trimmed["scalars1"] > 2000


async def test_who_deleted_a_run_is_in_the_log(agent: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "steadynorm_server"):
        assert (await agent.client.delete(agent.run)).status_code == 204
        assert (await agent.client.delete(agent.run)).status_code == 404
    assert [record.getMessage() for record in caplog.records] == ["run tiny-1 was deleted by 'local'"]
