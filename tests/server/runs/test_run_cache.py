"""What a server remembers of a run is only a guess: it saves reads, and is never believed over the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from tests.support.server import sweep

from steadynorm_contract.telemetry import RunFinish
from steadynorm_server.runs.cache import CachedRun, RunCache
from steadynorm_server.timeseries.peaks import Peaks


def _spiked(agent: Any, step: int, ratio: float) -> dict[str, Any]:
    return {"rows": agent.rows([step], [[[1] * 5, [1, 1, 1, 1, ratio]]])}


@pytest.mark.usefixtures("without_sweeper")
async def test_a_batch_that_follows_on_its_own_last_one_reads_nothing(agent: Any, store_url: str) -> None:
    await agent.send([1], **_spiked(agent, 1, 2))
    with redis.Redis.from_url(store_url, protocol=2) as client:
        client.config_resetstat()
        for step in range(2, 12):
            await agent.send([step], **_spiked(agent, step, 2))
        calls = {name: each["calls"] for name, each in client.info("commandstats").items()}
    assert calls["cmdstat_evalsha"] == 10
    assert "cmdstat_hgetall" not in calls
    assert "cmdstat_get" not in calls


@pytest.mark.slow
async def test_servers_that_take_turns_count_as_one_does(
    agent: Any, api: httpx.AsyncClient, serve: Callable[..., Any]
) -> None:
    clients = [api, await serve()]
    for step in range(1, 600):
        agent.client = clients[step // 3 % 2]
        await agent.send([step], **_spiked(agent, step, 20 + step), spikes=1, spike_ratio_max=20 + step)
    whole = [(await client.get(agent.run)).json() for client in clients]
    assert whole[0] == whole[1]
    assert whole[0]["counters"]["steps"] == whole[0]["counters"]["spikes"] == 599
    name = "spike_ratio/head.weight"
    series = (await agent.get("/series", names=name, points=10))["series"][name]
    assert sum(series["count"]) == 599
    assert max(series["max"]) == 20 + 599
    parameters = await agent.get("/parameters")
    assert [row["spikes"] for row in parameters["parameters"]] == [0, 599]


async def test_an_operator_in_between_is_seen(agent: Any) -> None:
    await agent.send([1])
    await agent.change(0, {"gamma2": 0.9})
    answer = await agent.send([2])
    assert (answer["desired"]["revision"], answer["desired"]["settings"]["gamma2"]) == (1, 0.9)


async def test_a_run_that_was_ended_or_fell_silent_in_between_is_read_again(agent: Any, clock: Any) -> None:
    await agent.send([1])
    clock.now += 100
    await sweep(agent.client)
    await agent.send([2])
    assert [event["kind"] for event in (await agent.get("/events"))["events"]].count("stalled") == 1
    finish = await agent.client.post(f"{agent.run}/finish", json={"state": "finished"})
    assert finish.status_code == 204, RunFinish
    clock.now += 100
    await agent.send([3])  # the last of its queue comes late: an ended run was not silent
    assert [event["kind"] for event in (await agent.get("/events"))["events"]].count("stalled") == 1


async def test_a_store_put_back_to_an_older_copy_is_believed(agent: Any, store_url: str) -> None:
    await agent.send([1])
    with redis.Redis.from_url(store_url, protocol=2) as client:
        copy = client.dump("steadynorm:{tiny-1}:run")
        await agent.send([2])
        client.restore("steadynorm:{tiny-1}:run", 0, copy, replace=True)
    refused = await agent.post(agent.batch(3, [3]))
    assert (refused.status_code, refused.json()["title"]) == (409, "Rewound")


def test_what_was_used_longest_ago_is_forgotten_first() -> None:
    recent = RunCache(max_bytes=3 * 20_000)

    def known(run_id: str) -> CachedRun:
        run: Any = type("Run", (), {"run_id": run_id})
        return CachedRun(run, Peaks(np.zeros(400, np.float32), np.zeros(400, np.uint32)))

    for run_id in ("a", "b", "c"):
        recent.put(known(run_id))
    recent.put(recent.take("a") or known("lost"))
    recent.put(known("d"))
    assert recent.take("b") is None
    assert [recent.take(run_id) is not None for run_id in ("a", "c", "d", "a")] == [True, True, True, False]
