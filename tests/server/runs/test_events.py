"""From step scalars to what an operator should know."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.support.server import FakeAgent

from steadynorm_contract.events import Event
from steadynorm_contract.rule import THROTTLED_TARGET
from steadynorm_contract.settings import Mode, Settings
from steadynorm_contract.telemetry import AgentCounters, AgentNote, NoteKind
from steadynorm_server.runs.events import MAX_EVENTS_A_BATCH, Scalars, Signals, health, observe

STEPS = 200


def look(
    signals: Signals, first: int = 0, steps: int = STEPS, *, attributed: bool = True, **changes: dict[int, float]
) -> list[Event]:
    """Events of `steps` calm steps but for the values given by column and step. A target below 0.3 is a spike's."""
    calm = {
        "target_min": 1.0,
        "target_parameter": 0.0,
        "spike_ratio_max": 1.0,
        "spike_parameter": 0.0,
        "spikes": 0.0,
        "nonfinite": 0.0,
        "nonfinite_parameter": -1.0,
        "throttled": 0.0,
    }
    small = {step: 1.0 for step, target in changes.get("target_min", {}).items() if target < THROTTLED_TARGET}
    changes.setdefault("throttled", small)
    at = range(first, first + steps)
    columns = {name: [changes.get(name, {}).get(step, value) for step in at] for name, value in calm.items()}
    names = ["a", "b", "c"]

    def name(index: float) -> str | None:
        return names[int(index)] if 0 <= index < 3 else None

    scalars = Scalars(at, [float(step) for step in at], **columns)
    return observe(signals, scalars, name, attributed=attributed)


def told(events: list[Event]) -> list[tuple[Any, ...]]:
    return [(event.kind.value, event.step, event.parameter, event.value) for event in events]


def test_a_calm_batch_has_no_events() -> None:
    assert look(Signals()) == []


def test_a_spike_is_one_event_that_names_the_worst_parameter() -> None:
    signals = Signals()
    events = look(signals, spikes={50: 3}, spike_ratio_max={50: 120.0}, spike_parameter={50: 2})
    assert told(events) == [("spike", 50, "c", 120.0)]
    assert events[0].message == "the gradient norm of c was 120 times its baseline, with 2 other parameters."
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
    assert events[0].message == "the gradient of b was NaN or infinite, with 1 other parameter; 2 steps in a row."


def test_throttling_begins_below_the_threshold_and_ends_clearly_above_it() -> None:
    signals = Signals()
    falling = {40: 0.31, 41: 0.29, 42: 0.31, 43: 0.29, 44: 0.32, **dict.fromkeys(range(45, 55), 0.34)}
    events = look(signals, target_min=falling, target_parameter={41: 1})
    assert told(events) == [("throttled", 41, "b", 0.29), ("recovered", 54, None, 0.34)]
    assert events[0].message == (
        "the target of b fell to 0.29: an old spike holds its update back. Reset the statistics; "
        "preset=robust keeps the next spike out."
    )
    assert health(signals, 0, False) == "calm"
    look(signals, 200, 1, target_min={200: 0.1})
    assert health(signals, 0, False) == "throttled"
    assert look(signals, 201, 1, target_min={201: 0.2}) == []


def test_a_target_that_rests_just_above_the_threshold_is_not_held_back_for_ever() -> None:
    signals = Signals()
    resting = {41: 0.29, **dict.fromkeys(range(42, 2000), 0.31)}
    events = look(signals, 0, 2000, target_min=resting, spikes={40: 1}, spike_ratio_max={40: 300.0})
    assert [event.kind.value for event in events] == ["spike", "throttled", "recovered"]
    assert events[-1].step == 41 + 381 + 10  # twice what a spike takes from 0.30 to 0.33, and RECOVERY_STEPS
    assert not signals.throttled


def test_a_spike_is_named_as_the_cause_and_is_no_recovery_however_large_it_makes_the_target() -> None:
    signals = Signals()
    held = dict.fromkeys(range(10, 30), 0.01) | dict.fromkeys(range(38, 60), 0.02)  # between them the spike of step 30
    events = look(signals, 0, 60, target_min=held, spikes={5: 1, 30: 1}, spike_ratio_max={5: 1e4, 30: 300.0})
    assert [(event.kind, event.step) for event in events] == [("spike", 5), ("throttled", 10), ("spike", 30)]
    assert "the spike at step 5, ×1e+04, holds its update back" in events[1].message
    assert [(event.kind, event.step) for event in look(signals, 60, 40)] == [("recovered", 69)]


def test_small_targets_without_a_spike_say_nothing() -> None:
    signals = Signals()
    young = dict.fromkeys(range(14, 60), 0.1)
    assert look(signals, target_min=young, throttled={}) == []
    assert health(signals, 60, False) == "calm"


def test_norms_that_fall_for_long_are_an_event_of_their_own_once_and_never_throttling() -> None:
    def fall(first: int, last: int, steps: range, signals: Signals | None = None, **more: Any) -> list[tuple[Any, ...]]:
        low = dict.fromkeys(range(first, last), 0.2)
        return told(look(signals or Signals(), steps[0], len(steps), target_min=low, **{"throttled": {}} | more))

    signals = Signals()
    assert fall(1500, 2000, range(1400, 1560), signals) == []
    assert fall(1500, 2000, range(1560, 2000), signals) == [("falling", 1599, "a", 0.2)]  # across batches, and once
    assert health(signals, 2000, False) == "calm"
    assert fall(2000, 2000, range(2000, 2010), signals) == []
    assert not signals.falling
    assert fall(2100, 2300, range(2010, 2300), signals) == [("falling", 2199, "a", 0.2)]

    assert fall(10, 900, range(900)) == [], "young statistics: most runs' norms fall at first"
    assert fall(10, 1200, range(1200)) == [("falling", 1000, "a", 0.2)]
    assert fall(1500, 1599, range(1400, 1700)) == [], "too short"
    a_spike = dict.fromkeys(range(1550, 1560), 1.0)
    assert [kind for kind, *_ in fall(1500, 1640, range(1400, 1700), throttled=a_spike)] == ["throttled", "recovered"]


def test_a_throttled_run_that_has_a_limit_is_not_told_to_set_one() -> None:
    scalars = Scalars([9], [9.0], [0.1], [0.0], [1.0], [0.0], [0.0], [0.0], [-1.0], [1.0])
    (event,) = observe(Signals(), scalars, lambda index: "a", settings=Settings(spike_limit=3.0))
    assert event.message.endswith("holds its update back. Reset the statistics.")


def test_a_throttled_run_with_a_limit_that_lets_spikes_in_is_told_of_the_preset() -> None:
    scalars = Scalars([9], [9.0], [0.1], [0.0], [1.0], [0.0], [0.0], [0.0], [-1.0], [1.0])
    (event,) = observe(Signals(), scalars, lambda index: "a", settings=Settings(spike_limit=10.0))
    assert event.message.endswith("Reset the statistics; preset=robust keeps the next spike out.")


def test_an_older_agents_small_targets_count_while_a_recorded_spike_can_be_the_cause() -> None:
    def first(spike: dict[int, float], targets: dict[int, float]) -> list[tuple[str, int]]:
        events = look(
            Signals(),
            0,
            6000,
            attributed=False,
            spikes=dict.fromkeys(spike, 1.0),
            spike_ratio_max=spike,
            target_min=targets,
        )
        return [(event.kind.value, event.step) for event in events if event.kind == "throttled"]

    assert first({}, {14: 0.1}) == []
    assert first({1000: 1000.0}, {999: 0.1, 1020: 0.04}) == [("throttled", 1020)]
    assert first({1000: 1000.0}, {5000: 0.2}) == [("throttled", 5000)]
    assert first({1000: 1000.0}, {5900: 0.2}) == []  # after 4,600 steps it is another cause
    assert first({1000: 20.0}, {1020: 0.2}) == []


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


async def test_losses_that_are_not_finite_are_counted_and_a_step_without_a_loss_is_not(agent: Any) -> None:
    nan = math.nan
    await agent.send(range(1, 4), loss=[2.5, nan, nan])  # an agent of before, or steps without a loss
    assert (await agent.get())["loss"] == 2.5
    await agent.send(range(4, 8), loss=[nan, math.inf, nan, nan], loss_nonfinite=[1, 1, 1, 0])
    shown = await agent.get()
    assert (shown["counters"]["nonfinite_losses"], shown["loss"]) == (3, None)
    found = await agent.get("/series", names="loss,loss_nonfinite", points=1)
    assert [found["series"]["loss_nonfinite"][end] for end in ("min", "mean", "max")] == [[0.0], [0.75], [1.0]]
    await agent.send([8], loss=2.0, loss_nonfinite=0)
    assert (await agent.get())["loss"] == 2.0


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


async def test_what_an_agent_finds_in_its_loop_is_an_event_and_stays_with_the_run(agent: Any) -> None:
    line = "4 of 4 tensors, steps seen"
    finding = AgentNote(NoteKind.FINDING, 100, 1700000000.0, 0, "100 steps without any gradient.")
    await agent.send([1], notes=[AgentNote(NoteKind.SELF_CHECK, 2, 1700000000.0, 0, line), finding])
    assert [(event["kind"], event["message"]) for event in await agent.events()] == [("finding", finding.message)]
    detail = await agent.get()
    assert (detail["self_check"], detail["findings"]) == (line, [finding.message])
    await agent.send([2], notes=[finding] * 30)
    assert len((await agent.get())["findings"]) == 20


async def test_the_event_of_a_batch_says_whose_it_is(api: Any) -> None:
    messages = []
    for ranks in (1, 8):
        agent = FakeAgent(api, run_id=f"with-{ranks}", world_size=ranks)
        await agent.register()
        await agent.send([1], spikes=1.0, spike_ratio_max=20.0, spike_parameter=0.0, batch_ids={1: "shard3:1042"})
        (event,) = await agent.events()
        assert event["batch_id"] == "shard3:1042"
        messages.append(event["message"])
    assert "rank" not in messages[0]
    assert messages[1].endswith("Its batch_id is that of rank 0 of 8.")


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
