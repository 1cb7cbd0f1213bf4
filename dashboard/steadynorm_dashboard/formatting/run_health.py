"""One sentence about a run's health: since when, the worst layer, how often; and the alert whose runbook applies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.runs import Health, RunState, RunSummary
from steadynorm_dashboard.formatting import numbers, status
from steadynorm_dashboard.runbook import ALERTS

_KINDS = {
    Health.SPIKING: EventKind.SPIKE,
    Health.THROTTLED: EventKind.THROTTLED,
    Health.NONFINITE: EventKind.NONFINITE,
}
_LIVE = (RunState.RUNNING, RunState.STALLED)
_EPISODE_GAP = 100
"""Steps: a run counts as spiking for this long after a spike, so spikes closer together are one episode."""


@dataclass(frozen=True, slots=True)
class HealthSummary:
    """`text` is not escaped: it contains a parameter's name. `event`: the id of the most relevant incident."""

    text: str
    alert: str | None = None
    event: str | None = None


def summarize(
    run: RunSummary, events: Sequence[Event], now: float, zone: str | None, *, more: bool = False
) -> HealthSummary:
    """The health of `run`, or its newest spike or non-finite gradient if it is healthy or has ended.

    events: newest first. more: whether there are older ones.
    """
    live = run.state in _LIVE
    badge = status.health_of(run) if live else status.state_of(run)
    word, alert = badge.word.capitalize(), ALERTS.get(run.health)
    if live and run.health in (Health.STALLED, Health.DISCONNECTED):
        if run.health is Health.STALLED and run.applied.settings.paused:
            return HealthSummary(f"{word} since step {run.applied.step:,}: resume it in the settings.")
        since = f"{word} since {numbers.moment(run.last_seen, now, zone)} (step {run.step:,})"
        return HealthSummary(f"{since}: no telemetry since.", alert)
    if live and (kind := _KINDS.get(run.health)):
        found = [one for one in events if one.kind is kind]
        found = found[:1] if run.health is Health.THROTTLED else _episode(found)
        if not found:
            return HealthSummary(f"{word}.", alert)
        first = shown = found[-1]
        if kind is EventKind.SPIKE:
            shown = max(found, key=lambda one: one.value or 0.0)
        earlier = " or earlier" if more and first is events[-1] else ""
        since = f"{word} since {numbers.moment(first.time, now, zone)}{earlier} (step {first.step:,})"
        count = f"{len(found):,} events" if len(found) > 1 else ""
        return HealthSummary("; ".join(filter(None, (since, _where(shown, "worst "), count))), alert, shown.id)
    newest = next((one for one in events if one.kind in (EventKind.SPIKE, EventKind.NONFINITE)), None)
    if newest is None:
        return HealthSummary(f"{word}: no spike and no non-finite gradient so far.")
    what = "spike" if newest.kind is EventKind.SPIKE else "non-finite gradient"
    when = f"{word}: last {what} {numbers.moment(newest.time, now, zone)} (step {newest.step:,})"
    return HealthSummary("; ".join(filter(None, (when, _where(newest)))), None, newest.id)


def _episode(found: Sequence[Event]) -> list[Event]:
    """The newest events that are close together, newest first."""
    together = list(found[:1])
    for one in found[1:]:
        if together[-1].step - one.step >= _EPISODE_GAP:
            break
        together.append(one)
    return together


def _where(event: Event, rank: str = "") -> str:
    """`worst blocks.0.mlp.up.weight, ×51` for a spike; for other kinds, the parameter in which it began."""
    if not event.parameter:
        return ""
    if event.kind is EventKind.SPIKE:
        return f"{rank}{event.parameter}" + (f", ×{numbers.number(event.value, 3)}" if event.value else "")
    target = event.value if event.kind is EventKind.THROTTLED else None
    return f"began in {event.parameter}" + (f", target {numbers.number(target, 2)}" if target else "")
