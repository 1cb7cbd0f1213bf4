"""One sentence on how a run does: since when, which layer is worst, how often; and the alert that says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.runs import Health, RunState, RunSummary
from steadynorm_dashboard.formatting import numbers, status

__all__ = ["ALERTS", "Trouble", "trouble"]

ALERTS = {
    Health.SPIKING: "SteadynormSpikeStorm",
    Health.THROTTLED: "SteadynormThrottled",
    Health.NONFINITE: "SteadynormNonfinite",
    Health.STALLED: "SteadynormStalled",
    Health.DISCONNECTED: "SteadynormStalled",
}
"""The alert whose section of the runbook says what to do."""

_KINDS = {
    Health.SPIKING: EventKind.SPIKE,
    Health.THROTTLED: EventKind.THROTTLED,
    Health.NONFINITE: EventKind.NONFINITE,
}
_LIVE = (RunState.RUNNING, RunState.STALLED)
_APART = 100
"""Steps: a run is spiking for so long after a spike, so spikes closer together are one episode."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """`words` is not escaped: it holds a parameter's name. `event`: the id of the incident that tells most of it."""

    words: str
    alert: str | None = None
    event: str | None = None


def trouble(run: RunSummary, events: Sequence[Event], now: float, zone: str | None, *, more: bool = False) -> Trouble:
    """What is to be said of `run`. events: newest first. more: there are older ones.

    A run that does well, or has ended, is told with its newest spike or non-finite gradient.
    """
    live = run.state in _LIVE
    look = status.health_of(run) if live else status.state_of(run)
    word = look.word.capitalize()
    if live and run.health in (Health.STALLED, Health.DISCONNECTED):
        paused = run.applied.settings.paused
        if run.health is Health.STALLED and paused:
            return Trouble(f"{word} since step {run.applied.step:,}: resume it in the settings.")
        silent = f"{word} since {numbers.moment(run.last_seen, now, zone)} (step {run.step:,}): no telemetry since."
        return Trouble(silent, ALERTS[run.health])
    if live and (kind := _KINDS.get(run.health)):
        found = _episode([one for one in events if one.kind is kind], apart=run.health is not Health.THROTTLED)
        if not found:
            return Trouble(f"{word}.", ALERTS[run.health])
        first, told = found[-1], found[-1]
        if kind is EventKind.SPIKE:
            told = max(found, key=lambda one: one.value or 0.0)
        earlier = " or earlier" if more and first is events[-1] else ""
        since = f"{word} since {numbers.moment(first.time, now, zone)}{earlier} (step {first.step:,})"
        often = f"{len(found):,} events" if len(found) > 1 else ""
        return Trouble("; ".join(part for part in (since, _worst(told), often) if part), ALERTS[run.health], told.id)
    newest = next((one for one in events if one.kind in (EventKind.SPIKE, EventKind.NONFINITE)), None)
    if newest is None:
        return Trouble(f"{word}: no spike and no non-finite gradient so far.")
    what = "spike" if newest.kind is EventKind.SPIKE else "non-finite gradient"
    when = f"last {what} {numbers.moment(newest.time, now, zone)} (step {newest.step:,})"
    return Trouble("; ".join(part for part in (f"{word}: {when}", _worst(newest, "")) if part), None, newest.id)


def _episode(found: Sequence[Event], *, apart: bool) -> list[Event]:
    """The newest events that belong together, newest first. apart: several may; else the newest alone is meant."""
    if not apart:
        return list(found[:1])
    together = list(found[:1])
    for one in found[1:]:
        if together[-1].step - one.step >= _APART:
            break
        together.append(one)
    return together


def _worst(event: Event, rank: str = "worst ") -> str:
    """`worst blocks.0.mlp.up.weight, ×51`, of a spike; of other kinds where it began."""
    if not event.parameter:
        return ""
    if event.kind is EventKind.SPIKE:
        return f"{rank}{event.parameter}" + (f", ×{numbers.number(event.value, 3)}" if event.value else "")
    if event.kind is EventKind.THROTTLED:
        return f"began in {event.parameter}" + (f", target {numbers.number(event.value, 2)}" if event.value else "")
    return f"began in {event.parameter}"
