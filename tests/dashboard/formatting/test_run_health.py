"""The sentence above a run's numbers: since when, which layer, what to do."""

from __future__ import annotations

import pytest

from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.runs import Applied, DesiredView, Health, RevisionState, RunCounters, RunState, RunSummary
from steadynorm_contract.settings import Settings
from steadynorm_dashboard import runbook
from steadynorm_dashboard.formatting import status
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
        counters=RunCounters(),
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


def test_a_throttled_and_a_non_finite_run_name_where_it_began() -> None:
    throttled = event(600, EventKind.THROTTLED, 0.21), event(590), event(80, EventKind.THROTTLED, 0.1)
    assert (
        said(run(Health.THROTTLED), *throttled).text == "Throttled since 12:10:00 (step 600); began in a, target 0.21"
    )
    broken = event(880, EventKind.NONFINITE, 2, "late"), event(870, EventKind.NONFINITE, 1, "early")
    assert said(run(Health.NONFINITE), *broken).text == "Non-finite since 12:14:30 (step 870); began in early; 2 events"


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
