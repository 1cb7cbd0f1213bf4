"""An answer to a batch says how soon to send again: soon where somebody or something waits for it."""

from __future__ import annotations

from typing import Any

from tests.support.server import Clock
from tests.support.webhooks import until

from steadynorm_server.runs import audience
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.telemetry.pace import NEW_S

SOON, UNSEEN = 1.0, 5.0


async def pace(agent: Any, **batch: Any) -> float:
    told: float = (await agent.send(**batch))["pace_s"]
    return told


async def test_a_run_that_somebody_looks_at_in_any_process_is_sent_soon_and_nobody_writes_for_it(
    agent: Any, api: Any, repository: RunRepository, clock: Clock
) -> None:
    seen = api.app.state.repository.audience
    assert await pace(agent) == SOON  # it has just begun
    clock.now += NEW_S
    assert await pace(agent) == UNSEEN
    await api.get("/runs")
    assert await pace(agent) == UNSEEN  # a list of all runs is no look at each
    for path, query in (("", {}), ("/series", {"names": "loss"})):
        seen._until.clear()
        await agent.get(path, **query)
        assert await pace(agent) == SOON
    later = max(seen._until.values()) + 0.1
    seen._clock = lambda: later
    assert await pace(agent) == UNSEEN
    other = repository.audience  # of another process
    assert other.looks_at(agent.registration.run_id)  # which heard of it, and need not say so again
    other._until.clear()
    told = 0

    async def tell(_run_id: str) -> None:
        nonlocal told
        told += 1

    await other.look(agent.registration.run_id)
    await until(lambda: seen.looks_at(agent.registration.run_id))
    assert await pace(agent) == SOON
    seen._tell = tell
    seen._until.clear()
    for _ in range(3):
        await agent.get()
    assert told == 1


async def test_a_change_on_its_way_and_what_may_change_the_run_are_waited_for(
    agent: Any, api: Any, clock: Clock
) -> None:
    clock.now += NEW_S
    await agent.change(0, {"gamma1": 0.5})
    assert await pace(agent) == SOON
    assert await pace(agent, applied=[agent.applied(1, 5, gamma1=0.5)]) == UNSEEN
    await agent.change(1, {"gamma1": 0.4})
    assert await pace(agent, applied=[agent.applied(2, 6, "rejected", "no")]) == UNSEEN
    waiting = await api.post(f"{agent.run}/schedules", json={"from_step": 1000, "settings": {"gamma1": 0.3}})
    assert await pace(agent) == SOON
    await api.delete(f"{agent.run}/schedules/{waiting.json()['id']}")
    assert await pace(agent) == UNSEEN
    api.app.state.repository.stalled_after_s = 12.0
    assert await pace(agent) == 2.0  # a sixth of what counts as silence


async def test_the_looks_that_are_remembered_are_those_of_the_last_seconds(monkeypatch: Any) -> None:
    monkeypatch.setattr(audience, "_MOST", 3)
    now = 0.0

    async def tell(_run_id: str) -> None:
        raise OSError

    seen = audience.Audience(tell, lambda: now)
    for at in range(3):
        await seen.look(f"run-{at}")
    now = audience.LOOK_S + 1
    await seen.look("run-3")
    assert list(seen._until) == ["run-3"]
