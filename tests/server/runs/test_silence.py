"""Runs from which nothing comes for a while."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.server import all_runs, sweep

from steadynorm_server.runs.repository import RunRepository


async def test_a_silence_is_told_once_whoever_looks_and_ends_with_telemetry(agent: Any, serve: Any, clock: Any) -> None:
    await agent.send([1])
    clock.now += 29
    assert (await agent.get())["state"] == "running"
    clock.now += 2
    other = await serve()
    for client in (agent.client, other):
        (listed,) = (await client.get("/runs")).json()["runs"]
        assert (listed["state"], listed["health"]) == ("stalled", "disconnected")
        assert (await client.get(agent.run)).json()["state"] == "stalled"
        await sweep(client)
    (stalled,) = await agent.events()
    assert (stalled["kind"], stalled["step"], stalled["time"]) == ("stalled", 1, clock.now - 1)
    clock.now += 9
    await agent.send([2])
    assert [(event["kind"], event["value"]) for event in await agent.events()] == [("stalled", 30), ("resumed", 40)]
    assert (await agent.get())["state"] == "running"
    # The next silence is another one.
    clock.now += 100
    await sweep(agent.client)
    assert [event["kind"] for event in await agent.events()] == ["stalled", "resumed", "stalled"]


async def test_servers_that_sweep_at_once_report_a_silence_once(agent: Any, serve: Any, clock: Any) -> None:
    other = await serve()
    await agent.send([1])
    clock.now += 60
    await asyncio.gather(*(sweep(client) for client in [agent.client, other] * 10))
    assert [event["kind"] for event in await agent.events()] == ["stalled"]


@pytest.mark.usefixtures("without_sweeper")
async def test_an_agent_that_asks_while_a_sweep_goes_on_is_not_told_as_silent(
    agent: Any, repository: RunRepository, clock: Any
) -> None:
    await agent.send([1])
    clock.now += 60
    read = await all_runs(repository)
    await agent.client.get(f"{agent.run}/settings", params={"after_revision": 0, "wait": 0.01})
    await repository.mark_stalled(read)
    assert await agent.events() == []
    clock.now += 60
    await repository.mark_stalled(read)
    assert await agent.events() == []
    await repository.mark_stalled(await all_runs(repository))
    assert [event["kind"] for event in await agent.events()] == ["stalled"]


async def test_a_silence_that_nobody_saw_is_told_when_it_ends(agent: Any, clock: Any) -> None:
    await agent.send([1])
    clock.now += 50
    await agent.send([2])
    assert [(event["kind"], event["value"]) for event in await agent.events()] == [("stalled", 30), ("resumed", 50)]


@pytest.mark.usefixtures("without_sweeper")  # whose first sweep could come between the clock and the poll
async def test_a_long_evaluation_and_a_pause_are_no_stall_and_a_hang_of_half_an_hour_is(agent: Any, clock: Any) -> None:
    async def kinds_after(seconds: float) -> list[str]:
        clock.now += seconds
        await agent.client.get(f"{agent.run}/settings", params={"after_revision": 0, "wait": 0.01})  # it listens
        await sweep(agent.client)
        return [event["kind"] for event in await agent.events()]

    await agent.send([1])
    assert await kinds_after(1700) == []
    await agent.send([2])
    assert await kinds_after(0) == [], "nor is it told afterwards"
    assert await kinds_after(1801) == ["stalled"]
    await agent.change(0, {"paused": True})
    await agent.send([3], applied=[agent.applied(1, 3, paused=True)])
    assert await kinds_after(86_400) == ["stalled", "resumed"]
    clock.now += 60
    await sweep(agent.client)
    assert [event["kind"] for event in await agent.events()] == ["stalled", "resumed", "stalled"], "it is gone"


async def test_an_ended_run_does_not_stall(agent: Any, clock: Any) -> None:
    await agent.client.post(f"{agent.run}/finish", json={"state": "finished"})
    clock.now += 1000
    shown = await agent.get()
    assert (shown["state"], shown["health"]) == ("finished", "calm")
    assert [event["message"] for event in await agent.events()] == ["the run finished."]
