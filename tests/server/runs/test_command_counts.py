"""Counts commands to Redis: of a change, a heat map, a scrape of many runs; and shows that reads never write."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import pytest
import redis
from tests.support.server import Command, FakeAgent, recorded_commands

pytestmark = pytest.mark.usefixtures("without_sweeper")


def sent(commands: list[Command]) -> Counter[str]:
    """Commands that the server sent, without those that its scripts called."""
    return Counter(each.name for each in commands if not each.in_script)


async def test_a_change_of_settings_reads_the_run_once_and_writes_with_one_script(
    agent: FakeAgent, store_url: str
) -> None:
    await agent.send([1])
    await agent.change(0, {"gamma1": 0.5})  # loads the script
    async with recorded_commands(store_url) as commands:
        assert (await agent.change(1, {"gamma2": 0.9})).status_code == 200
    assert sent(commands) == {"hgetall": 1, "evalsha": 1}
    assert any(each.in_script and each.writes for each in commands)


async def test_a_heat_map_reads_the_run_its_names_and_its_blocks_once(agent: FakeAgent, store_url: str) -> None:
    await agent.send([1, 2], rows=agent.rows([1, 2], [[[1] * 5] * 2] * 2))
    await agent.get("/series")  # loads the script
    for names in ({"get": 1}, {}):  # the second time from the cache
        async with recorded_commands(store_url) as commands:
            assert (await agent.get("/heatmap"))["parameters"] == ["embed.weight", "head.weight"]
        assert sent(commands) == {"hgetall": 1, "evalsha": 1, **names}


async def test_a_scrape_of_200_runs_reads_each_once_in_two_round_trips(
    api: Any, make_agent: type[FakeAgent], store_url: str
) -> None:
    for at in range(200):
        await make_agent(api, run_id=f"run-{at}", instance=str(at)).register()
    await api.get("http://test/metrics")  # caches the names of the one model
    round_trips = 0
    timed = api.app.state.repository.redis._timed

    def counted() -> Any:
        nonlocal round_trips
        round_trips += 1
        return timed()

    api.app.state.repository.redis._timed = counted
    async with recorded_commands(store_url) as commands:
        text = (await api.get("http://test/metrics")).text
    assert text.count("steadynorm_run_step{") == 200
    assert sent(commands) == {"zrevrange": 1, "xrevrange": 1, "hgetall": 200}
    assert round_trips == 2


async def test_no_get_route_writes_and_silent_runs_are_shown_as_stalled(
    api: Any, make_agent: type[FakeAgent], clock: Any, store_url: str
) -> None:
    agents = {name: make_agent(api, run_id=name, instance=name) for name in ("live", "silent", "ended")}
    for agent in agents.values():
        await agent.register()
        await agent.send([1], rows=agent.rows([1], [[[1] * 5, [20] * 5]]), spikes=1, spike_ratio_max=20)
        assert (await agent.change(0, {"gamma2": 0.9})).status_code == 200
    await api.post("/runs/ended/finish", json={"state": "finished"})
    clock.now += 3600
    await agents["live"].send([2])
    with redis.Redis.from_url(store_url, protocol=2) as client:
        client.zadd("steadynorm:runs", {"lost": 1})
        changes = client.info("persistence")["rdb_changes_since_last_save"]
        routes = [path for path, methods in api.app.openapi()["paths"].items() if "get" in methods]
        assert len(routes) > 15
        async with recorded_commands(store_url) as commands:
            for route in routes:
                for run_id in agents:
                    answer: httpx.Response = await api.get(f"http://test{route.replace('{run_id}', run_id)}")
                    assert answer.status_code == 200, (route, answer.text)
            states = {run["run_id"]: run["state"] for run in (await api.get("/runs")).json()["runs"]}
        assert client.info("persistence")["rdb_changes_since_last_save"] == changes
    assert states == {"live": "running", "silent": "stalled", "ended": "finished"}
    assert (await agents["silent"].get())["state"] == "stalled"
    assert 'steadynorm_run_step{run="tiny",run_id="silent"}' in (await api.get("http://test/metrics")).text
    assert len(commands) > len(routes)
    # /readyz writes an empty string into nothing: Redis decides whether it would accept writes, and changes nothing.
    assert {each.name for each in commands if each.writes} == {"setrange"}
