"""GET /fleet: every run in one answer, those in trouble first, with lines that keep spikes and who changed what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from tests.support.server import all_runs

from steadynorm_server.runs.fleet import Fleet

Look = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def look(api: httpx.AsyncClient) -> Look:
    """look(**query) -> the fleet as it is at this moment: nothing is kept from one question to the next."""
    app: Any = api.app  # type: ignore[attr-defined]
    app.state.fleet = Fleet(app.state.repository, fresh_s=0, lines_fresh_s=0)

    async def ask(**query: Any) -> dict[str, Any]:
        answer = await api.get("/fleet", params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return ask


@pytest.fixture
def start(api: httpx.AsyncClient, make_agent: Any) -> Callable[..., Awaitable[Any]]:
    """start("name", **what differs in the registration) -> a registered agent of a run `name`-1."""

    async def begin(name: str, **changes: Any) -> Any:
        agent = make_agent(api, name=name, run_id=f"{name}-1", **changes)
        await agent.register()
        return agent

    return begin


def names(answer: dict[str, Any]) -> list[str]:
    return [run["name"] for run in answer["runs"]]


async def test_a_spike_of_one_step_in_thousands_shows_in_the_line(look: Look, start: Any) -> None:
    agent = await start("long")
    for begin in range(0, 3000, 500):
        norms = [250.0 if step == 1234 else 1.0 for step in range(begin, begin + 500)]
        losses = [10.0 - step / 500 for step in range(begin, begin + 500)]
        await agent.send(range(begin, begin + 500), raw_norm=norms, loss=losses)
    (run,) = (await look())["runs"]
    assert 20 <= len(run["norm_spark"]["high"]) <= 40
    assert [value for value in run["norm_spark"]["high"] if value != 1.0] == [250.0]
    assert set(run["norm_spark"]["low"]) == {1.0}
    assert 1.0 < max(run["norm_spark"]["mean"]) < 5.0  # the bucket's 75 steps or more
    assert run["loss_spark"]["high"][0] == 10.0
    assert run["loss_spark"]["low"][-1] == pytest.approx(10 - 2999 / 500, rel=1e-3)
    await agent.send([3000], raw_norm=300.0)
    (run,) = (await look())["runs"]
    assert run["norm_spark"]["high"][-1] == 300.0


async def test_a_run_without_steps_has_no_lines_and_one_whose_norm_is_never_finite_has_gaps(
    look: Look, start: Any
) -> None:
    await start("waiting")
    agent = await start("broken")
    await agent.send(range(4), raw_norm=float("nan"))
    by_name = {run["name"]: run for run in (await look())["runs"]}
    assert by_name["waiting"]["norm_spark"] is None
    assert by_name["broken"]["norm_spark"] == {"low": [None] * 4, "high": [None] * 4, "mean": [None] * 4}
    assert by_name["broken"]["loss_spark"]["high"] == [2.0] * 4


async def test_lines_that_are_not_ready_in_time_come_with_a_later_answer(look: Look, start: Any, api: Any) -> None:
    agent = await start("late")
    await agent.send(range(4))
    sparks = api.app.state.fleet._sparklines
    records = await all_runs(api.app.state.repository)
    assert await sparks.get(records, within_s=-1) == {}
    assert set(await sparks.get(records)) == {"late-1"}


async def test_runs_in_trouble_come_first_and_finished_ones_last(look: Look, start: Any, clock: Any) -> None:
    for name, state in (("failed", "failed"), ("finished", "finished")):
        agent = await start(name)
        await agent.send([1], nonfinite=1)
        await agent.client.post(f"{agent.run}/finish", json={"state": state})
    await (await start("silent")).send([1])
    clock.now += 100
    await (await start("calm")).send([1])
    await (await start("throttled")).send([1], target_min=0.1)
    await (await start("spiking")).send([1], spikes=1, spike_ratio_max=20.0)
    await (await start("nonfinite")).send([1], nonfinite=1)
    answer = await look()
    assert names(answer) == ["nonfinite", "failed", "spiking", "throttled", "silent", "calm", "finished"]
    assert answer["healths"] == {"nonfinite": 1, "spiking": 1, "throttled": 1, "disconnected": 1, "calm": 1}
    assert answer["states"] == {"running": 4, "stalled": 1, "failed": 1, "finished": 1}
    assert names(await look(health="nonfinite", state="running")) == ["nonfinite"]


async def test_a_run_that_failed_stands_on_top_for_a_day_and_the_answer_says_when_the_last_one_did(
    look: Look, start: Any, clock: Any
) -> None:
    before = await look()
    assert (before["failed_lately"], before["failed_last"]) == (0, None)
    for name in ("one", "two"):
        agent = await start(name)
        await agent.send([1])
        await agent.client.post(f"{agent.run}/finish", json={"state": "failed"})
        clock.now += 50_000
    await (await start("throttled")).send([1], target_min=0.1)
    answer = await look()
    assert names(answer) == ["two", "throttled", "one"]
    assert (answer["failed_lately"], answer["failed_last"]) == (1, clock.now - 50_000)


async def test_a_search_of_more_words_than_anybody_types_is_refused_and_repeated_ones_count_once(
    look: Look, start: Any, api: httpx.AsyncClient
) -> None:
    await start("found")
    assert names(await look(search="found " * 60)) == ["found"]
    answer = await api.get("/fleet", params={"search": " ".join(f"w{at}" for at in range(17))})
    assert answer.status_code == 422
    assert answer.json()["detail"] == "search may hold at most 16 different words: got 17. Remove some."


async def test_a_run_that_was_silent_for_a_day_stands_below_what_happens_now(
    look: Look, start: Any, clock: Any
) -> None:
    await (await start("forgotten")).send([1], nonfinite=1)
    clock.now += 86_500
    await (await start("calm")).send([1])
    assert names(await look()) == ["calm", "forgotten"]


async def test_an_agent_that_listens_is_stalled_and_one_that_does_not_is_disconnected(
    look: Look, start: Any, clock: Any
) -> None:
    for name in ("listening", "gone"):
        await (await start(name)).send([1])
    clock.now += 40
    waited = await (await start("x")).client.get(
        "/runs/listening-1/settings", params={"after_revision": 0, "wait": 0.01}
    )
    assert waited.status_code == 200
    health = {run["name"]: (run["state"], run["health"]) for run in (await look())["runs"]}
    assert health["listening"] == ("stalled", "stalled")
    assert health["gone"] == ("stalled", "disconnected")
    clock.now += 31
    health = {run["name"]: (run["state"], run["health"]) for run in (await look())["runs"]}
    assert health["listening"] == ("stalled", "disconnected")


async def test_a_look_at_the_settings_that_does_not_wait_is_no_sign_of_the_agent(
    look: Look, start: Any, clock: Any
) -> None:
    agent = await start("gone")
    clock.now += 40
    await agent.get("/settings")
    (run,) = (await look())["runs"]
    assert run["health"] == "disconnected"


async def test_each_run_says_who_changed_what_last(look: Look, start: Any) -> None:
    await start("untouched")
    agent = await start("changed")
    await agent.change(0, {"gamma2": 0.99}, reason="spikes")
    await agent.change(1, {"mode": "observe"}, reason="look first")
    by_name = {run["name"]: run for run in (await look())["runs"]}
    assert by_name["untouched"]["last_change"] is None
    change = by_name["changed"]["last_change"]
    assert (change["revision"], change["actor"], change["reason"]) == (2, "local", "look first")
    assert (change["before"], change["after"]) == ({"mode": "stabilize"}, {"mode": "observe"})
    assert change["state"] == "pending"
    await agent.send(applied=[agent.applied(2, 7, gamma2=0.99, mode="observe")])
    (change,) = [run["last_change"] for run in (await look())["runs"] if run["last_change"]]
    assert change["state"] == "applied"


async def test_runs_are_found_by_words_tags_and_health_and_the_counts_are_of_all(look: Look, start: Any) -> None:
    await start("gpt-small", tags={"team": "speech", "stage": "pilot"})
    await start("gpt-large", tags={"team": "speech"})
    await start("vit", tags={"team": "vision"})
    assert names(await look(search="GPT speech", sort="name")) == ["gpt-large", "gpt-small"]
    assert names(await look(search="stage=pilot")) == ["gpt-small"]
    assert names(await look(search="nothing like it")) == []
    assert names(await look(tag="team=vision")) == ["vit"]
    limited = await look(sort="-name", limit=1)
    assert (names(limited), limited["matching"], limited["total"]) == (["vit"], 3, 3)
    assert limited["tags"] == {"team=speech": 2, "stage=pilot": 1, "team=vision": 1}


async def test_a_number_that_is_not_known_sorts_last_in_both_directions(look: Look, start: Any) -> None:
    for name, loss in (("low", 1.0), ("high", 3.0), ("unknown", float("nan"))):
        await (await start(name)).send([1], loss=loss)
    assert names(await look(sort="loss")) == ["low", "high", "unknown"]
    assert names(await look(sort="-loss")) == ["high", "low", "unknown"]


async def test_many_who_ask_together_read_the_store_once(api: httpx.AsyncClient, start: Any) -> None:
    await (await start("one")).send([1])
    app: Any = api.app  # type: ignore[attr-defined]
    app.state.fleet = fleet = Fleet(app.state.repository, fresh_s=60)
    reads = 0
    whole = fleet._queries.summaries

    async def counted(runs: Any) -> Any:
        nonlocal reads
        reads += 1
        return await whole(runs)

    fleet._queries.summaries = counted  # type: ignore[method-assign]
    responses = await asyncio.gather(*(api.get("/fleet") for _ in range(20)))
    assert {answer.status_code for answer in responses} == {200}
    assert reads == 1


async def test_an_unknown_order_is_refused_with_those_that_there_are(api: httpx.AsyncClient) -> None:
    answer = await api.get("/fleet", params={"sort": "worst"})
    assert answer.status_code == 422
    assert "severity" in answer.text


async def test_rows_have_the_logged_scalars_that_were_asked_for(look: Look, start: Any, api: httpx.AsyncClient) -> None:
    agent, other = await start("logs"), await start("silent")
    sent = agent.batch(1, [1, 2])
    sent.logged = [agent.logged([1, 2], entropy=[0.5, 0.25], **{"eval/loss": [2.0, 1.5]})]
    assert (await agent.post(sent)).status_code == 200
    await other.send([1])
    answer = await look(scalar=["eval/loss", "nobody's"])
    assert answer["scalars"] == ["entropy", "eval/loss"]
    assert {run["name"]: run["scalars"] for run in answer["runs"]} == {"logs": {"eval/loss": 1.5}, "silent": {}}
    assert {run["name"]: run["scalars"] for run in (await look())["runs"]} == {"logs": {}, "silent": {}}
    many = await api.get("/fleet", params={"scalar": [str(at) for at in range(17)]})
    assert many.status_code == 422
