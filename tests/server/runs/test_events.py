"""From step scalars to what an operator should know."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from tests.support.server import sweep

from steadynorm_contract.events import Event
from steadynorm_contract.settings import Mode, Settings
from steadynorm_contract.telemetry import AgentCounters, AgentNote, NoteKind
from steadynorm_server.runs.events import MAX_EVENTS_A_BATCH, Scalars, Signals, health, observe

STEPS = 200


def look(signals: Signals, first: int = 0, steps: int = STEPS, **changes: dict[int, float]) -> list[Event]:
    """Events of `steps` calm steps but for the values given by column and step."""
    calm = {
        "target_min": 1.0,
        "target_parameter": 0.0,
        "spike_ratio_max": 1.0,
        "spike_parameter": 0.0,
        "spikes": 0.0,
        "nonfinite": 0.0,
        "nonfinite_parameter": -1.0,
    }
    at = range(first, first + steps)
    columns = {name: [changes.get(name, {}).get(step, value) for step in at] for name, value in calm.items()}
    names = ["a", "b", "c"]

    def name(index: float) -> str | None:
        return names[int(index)] if 0 <= index < 3 else None

    return observe(signals, Scalars(at, [float(step) for step in at], **columns), name)


def told(events: list[Event]) -> list[tuple[Any, ...]]:
    return [(event.kind.value, event.step, event.parameter, event.value) for event in events]


def test_a_calm_batch_has_no_events() -> None:
    assert look(Signals()) == []


def test_a_spike_is_one_event_that_names_the_worst_parameter() -> None:
    signals = Signals()
    events = look(signals, spikes={50: 3}, spike_ratio_max={50: 120.0}, spike_parameter={50: 2})
    assert told(events) == [("spike", 50, "c", 120.0)]
    assert events[0].message == "the gradient norm of c was 120 times its RMS norm, with 2 other parameters."
    assert events[0].time == 50.0


def test_spikes_apart_are_events_apart() -> None:
    events = look(Signals(), spikes={50: 1, 52: 1}, spike_ratio_max={50: 20.0, 52: 30.0})
    assert [event.step for event in events] == [50, 52]


def test_a_burst_is_one_event_at_its_worst_step_across_batches_too() -> None:
    signals = Signals()
    burst = dict.fromkeys(range(195, 200), 1.0)
    events = look(signals, spikes=burst, spike_ratio_max={195: 20.0, 197: 90.0})
    assert told(events) == [("spike", 197, "a", 90.0)]
    assert "5 steps in a row" in events[0].message
    # It goes on: told again only when it doubles.
    assert look(signals, 200, 1, spikes={200: 1}, spike_ratio_max={200: 100.0}) == []
    assert told(look(signals, 201, 1, spikes={201: 1}, spike_ratio_max={201: 250.0})) == [("spike", 201, "a", 250.0)]
    assert told(look(signals, 203, 1, spikes={203: 1}, spike_ratio_max={203: 11.0})) == [("spike", 203, "a", 11.0)]


def test_a_storm_is_cut_to_its_worst() -> None:
    spikes = dict.fromkeys(range(0, 200, 2), 1.0)
    events = look(Signals(), spikes=spikes, spike_ratio_max={step: 11.0 + step for step in spikes})
    assert [event.step for event in events] == list(range(160, 200, 2))
    assert len(events) == MAX_EVENTS_A_BATCH


def test_a_non_finite_gradient_is_an_event_with_its_parameter() -> None:
    events = look(Signals(), nonfinite={10: 2, 11: 1}, nonfinite_parameter={10: 1, 11: 1})
    assert told(events) == [("nonfinite", 10, "b", 2.0)]
    assert events[0].message == "the gradient of b was NaN or infinite, with 1 other parameters; 2 steps in a row."


def test_throttling_begins_below_the_threshold_and_ends_clearly_above_it() -> None:
    signals = Signals()
    falling = {40: 0.31, 41: 0.29, 42: 0.31, 43: 0.29, 44: 0.32, 45: 0.34}
    events = look(signals, target_min=falling, target_parameter={41: 1})
    assert told(events) == [("throttled", 41, "b", 0.29), ("recovered", 45, None, 0.34)]
    assert "Reset the statistics, or set a spike_limit" in events[0].message
    assert health(signals, 0, False) == "calm"
    look(signals, 200, 1, target_min={200: 0.1})
    assert health(signals, 0, False) == "throttled"
    assert look(signals, 201, 1, target_min={201: 0.2}) == []


def test_targets_that_are_no_numbers_say_nothing() -> None:
    signals = Signals(throttled=True)
    assert look(signals, steps=2, target_min={0: math.nan, 1: math.inf}) == []
    assert signals.throttled


def test_an_index_beyond_the_table_names_nobody() -> None:
    events = look(Signals(), spikes={5: 1}, spike_ratio_max={5: 20.0}, spike_parameter={5: 77})
    assert told(events) == [("spike", 5, None, 20.0)]
    assert "of a parameter" in events[0].message


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -3.0])
def test_counts_that_are_none_are_no_spikes(garbage: float) -> None:
    assert look(Signals(), spikes={5: garbage}, nonfinite={6: garbage}) == []


@pytest.mark.parametrize(
    ("signals", "stalled", "expected"),
    [
        (Signals(), False, "calm"),
        (Signals(), True, "stalled"),
        (Signals(throttled=True), True, "throttled"),
        (Signals(throttled=True, spike_step=101), True, "spiking"),
        (Signals(throttled=True, spike_step=101, nonfinite_step=150), False, "nonfinite"),
        (Signals(spike_step=100), False, "calm"),
        (Signals(spike_step=300), False, "calm"),  # the run went back to a checkpoint
    ],
)
def test_health_is_the_worst_that_holds(signals: Signals, stalled: bool, expected: str) -> None:
    assert health(signals, 200, stalled) == expected


async def test_events_reach_the_run_with_names_and_exact_counters(agent: Any) -> None:
    await agent.send(range(1, 101), spikes=[0] * 49 + [2, 1] + [0] * 49, spike_ratio_max=50.0, spike_parameter=1)
    await agent.send(range(101, 111), nonfinite=[0, 1] + [0] * 8, nonfinite_parameter=0, target_min=0.2)
    assert [(event["kind"], event["step"], event["parameter"]) for event in await agent.events()] == [
        ("spike", 50, "head.weight"),
        ("throttled", 101, "embed.weight"),
        ("nonfinite", 102, "embed.weight"),
    ]
    shown = await agent.get()
    assert (shown["counters"]["spikes"], shown["counters"]["nonfinite"]) == (3, 1)
    assert shown["health"] == "nonfinite"
    limited = await agent.get("/events", limit=1)
    assert [event["kind"] for event in limited["events"]] == ["nonfinite"]
    ids = [event["id"] for event in (await agent.get("/events"))["events"]]
    assert len(set(ids)) == len(ids) == 4


async def test_an_alarm_tells_what_the_training_loop_called_its_data(agent: Any) -> None:
    named = {3: "shard3:1042", 5: "shard3:1043"}
    await agent.send(
        range(1, 6), spikes=[0, 0, 2, 0, 0], spike_ratio_max=50.0, nonfinite=[0, 0, 0, 0, 1], batch_ids=named
    )
    await agent.send([6, 8], spikes=[0, 1], spike_ratio_max=20.0, target_min=0.1)
    assert [(event["kind"], event["step"], event["batch_id"]) for event in await agent.events()] == [
        ("spike", 3, "shard3:1042"),
        ("nonfinite", 5, "shard3:1043"),
        ("throttled", 6, None),
        ("spike", 8, None),
    ]


@pytest.mark.parametrize(("batch_ids", "status"), [({1: "a", 2: "b"}, 422), ({1: "x" * 201}, 400)])
async def test_names_of_batches_are_bounded(agent: Any, batch_ids: dict[int, str], status: int) -> None:
    sent = agent.batch(1, [1])
    sent.batch_ids = batch_ids
    answer = await agent.post(sent)
    assert answer.status_code == status
    assert "batch_ids" in answer.json()["detail"]


async def test_an_error_while_sending_is_told_apart_from_one_that_turns_the_agent_off(agent: Any) -> None:
    await agent.send([1], counters=AgentCounters(produced=1, errors=1, sending_errors=1))
    await agent.send([2], counters=AgentCounters(produced=2, errors=2, sending_errors=1))
    sending, off = await agent.events()
    assert sending["kind"] == off["kind"] == "agent_error"
    assert "the run is still stabilized and recorded" in sending["message"]
    assert "disabled itself" in off["message"]
    assert (await agent.get())["counters"]["agent_errors"] == 2


async def test_what_happened_between_ranks_is_an_event_that_names_the_rank(agent: Any) -> None:
    note = AgentNote(NoteKind.RANK_MISMATCH, 100, 1700000000.0, 3, "rank 3 differs.")
    failed = AgentNote(NoteKind.RANK_FAILED, 200, 1700000001.0, 2, "rank 2 met an internal error.")
    await agent.send([1], notes=[note])
    await agent.send([2], notes=[failed], counters=AgentCounters(produced=2, errors=1))
    assert [(event["kind"], event["step"], event["value"], event["message"]) for event in await agent.events()] == [
        ("rank_mismatch", 100, 3.0, "rank 3 differs."),
        ("rank_failed", 200, 2.0, "rank 2 met an internal error."),  # and no second event of the same error
    ]
    assert (await agent.get())["counters"]["agent_errors"] == 1
    metrics = await agent.client.get("http://test/metrics", headers={"Authorization": ""})
    assert any(
        line.startswith("steadynorm_rank_mismatches_total{") and line.endswith(" 1.0")
        for line in metrics.text.splitlines()
    )


async def test_a_note_that_breaks_a_rule_is_refused(agent: Any) -> None:
    sent = agent.batch(1, [1])
    sent.notes = [AgentNote(NoteKind.RANK_MISMATCH, 1, math.nan, -1, "")]
    answer = await agent.post(sent)
    assert answer.status_code == 422
    assert {error["field"] for error in answer.json()["errors"]} == {"notes.time", "notes.rank"}


async def test_a_storm_of_spikes_leaves_a_bounded_stream_and_exact_counters(agent: Any) -> None:
    for at in range(150):
        steps = range(at * 40, at * 40 + 40)
        await agent.send(steps, spikes=[1, 0] * 20, spike_ratio_max=20.0)
    assert (await agent.get())["counters"]["spikes"] == 3000
    assert len((await agent.get("/events", limit=2000))["events"]) == 2000


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


async def test_a_silence_that_nobody_saw_is_told_when_it_ends(agent: Any, clock: Any) -> None:
    await agent.send([1])
    clock.now += 50
    await agent.send([2])
    assert [(event["kind"], event["value"]) for event in await agent.events()] == [("stalled", 30), ("resumed", 50)]


async def test_an_ended_run_does_not_stall(agent: Any, clock: Any) -> None:
    await agent.client.post(f"{agent.run}/finish", json={"state": "finished"})
    clock.now += 1000
    shown = await agent.get()
    assert (shown["state"], shown["health"]) == ("finished", "calm")
    assert [event["message"] for event in await agent.events()] == ["the run finished."]


async def test_only_a_stabilized_run_is_throttled(api: Any, make_agent: Any) -> None:
    watched = make_agent(api, run_id="watched", settings=Settings(mode=Mode.OBSERVE))
    stabilized = make_agent(api, run_id="stabilized")
    for one, expected in ((watched, "calm"), (stabilized, "throttled")):
        await one.register()
        await one.send(range(1, 5), target_min=0.1)
        assert (await one.get())["health"] == expected
    off = stabilized.applied(1, 5, mode="off")
    await stabilized.send(range(5, 9), target_min=math.nan, applied=[off])
    assert (await stabilized.get())["health"] == "calm"
