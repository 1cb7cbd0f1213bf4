"""The sentence above a run's numbers: since when, which layer, what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.forecast import Outlook, Present
from steadynorm_contract.rule import TensorState
from steadynorm_contract.runs import Applied, DesiredView, Health, RevisionState, RunCounters, RunState, RunSummary
from steadynorm_contract.settings import Settings
from steadynorm_dashboard import runbook
from steadynorm_dashboard.formatting import status, throttling
from steadynorm_dashboard.formatting.run_health import HealthSummary, summarize

NOON = 1_764_000_000.0 - 1_764_000_000 % 86_400 + 12 * 3600


def run(health: Health = Health.CALM, state: RunState = RunState.RUNNING, **more: object) -> RunSummary:
    settings = Settings(paused=bool(more.pop("paused", False)))
    return RunSummary(
        run_id="r",
        name="r",
        state=state,
        health=health,
        step=900,
        started=NOON - 900,
        last_seen=NOON,
        desired=DesiredView(0, settings, RevisionState.APPLIED),
        applied=Applied(0, 720, settings),
        counters=more.pop("counters", RunCounters()),  # type: ignore[arg-type]  # the same
        **more,  # type: ignore[arg-type]  # names and values are the caller's
    )


def event(step: int, kind: EventKind = EventKind.SPIKE, value: float = 20.0, parameter: str = "a") -> Event:
    return Event(id=f"e{step}", kind=kind, step=step, time=NOON + step, message="", parameter=parameter, value=value)


def said(of: RunSummary, *events: Event, more: bool = False) -> HealthSummary:
    return summarize(of, events, NOON + 1000, None, more=more)


def test_a_spiking_run_says_since_when_which_layer_and_how_often() -> None:
    events = event(890), event(810, value=51.2, parameter="layers.7.mlp"), event(720), event(500, value=99.0)
    assert said(run(Health.SPIKING), *events) == HealthSummary(
        "Spiking since 12:12:00 (step 720); worst layers.7.mlp, ×51.2; 3 events", "SteadynormSpikeStorm", "e810"
    )


def test_an_episode_that_is_longer_than_what_was_read_says_so() -> None:
    assert "12:13:30 or earlier" in said(run(Health.SPIKING), event(890), event(810), more=True).text
    assert "earlier" not in said(run(Health.SPIKING), event(890), event(810), event(100), more=True).text


def test_a_throttled_run_leads_to_the_spike_that_did_it_with_its_batch_and_how_long_it_lasts() -> None:
    elsewhere, older = event(590, parameter="b"), event(80, EventKind.THROTTLED, 0.1)
    spike = structs.replace(event(560, value=45.0), batch_id="shard-006/37")
    events = event(600, EventKind.THROTTLED, 0.21), elsewhere, spike, event(100), older
    found = summarize(run(Health.THROTTLED), events, NOON + 1000, None, extent="updates are 830 times too small")
    assert found == HealthSummary(
        "Throttled since 12:10:00 (step 600) by the spike ×45 in a at step 560, batch shard-006/37; "
        "updates are 830 times too small",
        "SteadynormThrottled",
        "e560",
        throttled=True,
    )
    assert said(run(Health.THROTTLED), events[0], elsewhere, event(100)).event == "e590", "the tensor's own is too old"
    assert said(run(Health.THROTTLED), events[0]) == HealthSummary(
        "Throttled since 12:10:00 (step 600); began in a, target 0.21", "SteadynormThrottled", "e600", throttled=True
    )


def test_a_run_that_spikes_and_is_throttled_says_both_until_it_has_recovered() -> None:
    events = event(890), event(880, EventKind.THROTTLED, 0.1), event(870)
    found = summarize(run(Health.SPIKING), events, NOON + 1000, None, extent="updates are 9 times too small")
    assert found.text.endswith("; 2 events; throttled: updates are 9 times too small")
    assert (found.event, found.throttled) == ("e890", True)
    assert not said(run(Health.SPIKING), event(895, EventKind.RECOVERED), *events).throttled
    assert not said(run(Health.SPIKING, RunState.FINISHED), *events).throttled


def test_a_non_finite_run_names_where_it_began() -> None:
    broken = event(880, EventKind.NONFINITE, 2, "late"), event(870, EventKind.NONFINITE, 1, "early")
    assert said(run(Health.NONFINITE), *broken).text == "Non-finite since 12:14:30 (step 870); began in early; 2 events"


def test_the_extent_of_throttling_is_told_in_two_digits() -> None:
    tensor = Present("a", TensorState(square_sum=830.0**2, square_weight=1.0), [1.0])
    lasting = Outlook("a", 0.001, {}, 4237, {})
    assert throttling.extent_words([tensor], [lasting]) == (
        "updates are 830 times too small, for about 4,200 more steps"
    )
    assert throttling.extent_words([tensor], [replace(lasting, throttled_for=0)]) == ""
    assert throttling.extent_words([], []) == ""


def test_a_silent_run_says_since_when_and_a_paused_one_is_not_in_trouble() -> None:
    silent = said(run(Health.DISCONNECTED, RunState.STALLED, connected=False))
    assert silent == HealthSummary("Disconnected since 12:00:00 (step 900): no telemetry since.", "SteadynormStalled")
    paused = said(run(Health.STALLED, RunState.STALLED, paused=True))
    assert paused == HealthSummary("Paused since step 720: resume it in the settings.")


def test_a_calm_or_ended_run_is_told_with_its_last_spike() -> None:
    assert said(run()) == HealthSummary("Calm: no spike and no non-finite gradient so far.")
    assert said(run(), event(300)).text == "Calm: last spike 12:05:00 (step 300); a, ×20"
    ended = said(run(Health.SPIKING, RunState.FAILED), event(890))
    assert (ended.text, ended.alert) == ("Failed: last spike 12:14:50 (step 890); a, ×20", None)


@pytest.mark.parametrize("health", [health for health in Health if health is not Health.CALM])
def test_every_trouble_leads_to_a_section_of_the_runbook(health: Health) -> None:
    assert runbook.find(runbook.ALERTS[health]) is not None


def test_a_badge_is_not_said_twice_and_an_ended_run_has_no_health() -> None:
    def words(of: RunSummary) -> list[str]:
        return [look.word for look in status.badges_of(of)]

    assert words(run(Health.SPIKING)) == ["running", "spiking"]
    assert words(run(Health.DISCONNECTED, RunState.STALLED, connected=False)) == ["disconnected"]
    assert words(run(Health.STALLED, RunState.STALLED, paused=True)) == ["paused"]
    assert words(run(Health.SPIKING, RunState.FAILED)) == ["failed"]


def test_an_ended_run_that_had_nan_says_so() -> None:
    broken = RunCounters(nonfinite=3)
    finished = run(state=RunState.FINISHED, counters=broken)
    assert [badge.word for badge in status.badges_of(finished)] == ["finished, non-finite"]
    losses = run(state=RunState.FINISHED, counters=RunCounters(nonfinite_losses=3))
    (badge,) = status.badges_of(losses)
    assert (badge.word, badge.color) == ("finished, 3 non-finite losses", "orange")
    assert "Its loss was NaN or infinite in 3 steps." in badge.help
    assert [badge.word for badge in status.badges_of(run(state=RunState.FINISHED))] == ["finished"]
    assert status.ended(run(state=RunState.FAILED, counters=broken)).color == "red"


@pytest.mark.parametrize(
    ("step", "target", "said_of_it"),
    [
        (100, 0.8, "Calm, warming up (half-life 693 steps): no spike"),
        (900, 0.21, "Calm, warming up (smallest target 0.21: norms fall faster than gamma2 forgets): no spike"),
        (5000, 0.21, "Calm, norms fall faster than gamma2 forgets (smallest target 0.21): no spike"),
        (5000, 0.8, "Calm: no spike"),
    ],
)
def test_young_statistics_and_small_targets_without_a_spike_are_calm(step: int, target: float, said_of_it: str) -> None:
    assert said(structs.replace(run(target_min=target), step=step)).text.startswith(said_of_it)
    spiking = said(structs.replace(run(Health.SPIKING, target_min=target), step=step), event(90))
    assert "warming up" not in spiking.text
    assert "norms fall" not in spiking.text
