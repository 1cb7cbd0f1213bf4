"""One sentence about a run's health: since when, the worst layer, how often; and the alert whose runbook applies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.rule import THROTTLED_TARGET
from steadynorm_contract.runs import Health, RunSummary
from steadynorm_contract.settings import Mode
from steadynorm_dashboard.formatting import numbers, status, throttling
from steadynorm_dashboard.runbook import ALERTS

_KINDS = {
    Health.SPIKING: EventKind.SPIKE,
    Health.THROTTLED: EventKind.THROTTLED,
    Health.NONFINITE: EventKind.NONFINITE,
}
_EPISODE_GAP = 100
"""Steps: a run counts as spiking for this long after a spike, so spikes closer together are one episode."""


@dataclass(frozen=True, slots=True)
class HealthSummary:
    """`text` is not escaped: it contains a parameter's name.

    event: The id of the most relevant incident; of a throttled run that of the spike which throttled it.
    throttled: Whether updates are held back, which the run's health does not tell while it spikes.
    """

    text: str
    alert: str | None = None
    event: str | None = None
    throttled: bool = False


def summarize(
    run: RunSummary, events: Sequence[Event], now: float, zone: str | None, *, more: bool = False, extent: str = ""
) -> HealthSummary:
    """The health of `run`, or its newest spike or non-finite gradient if it is healthy or has ended.

    events: newest first. more: whether there are older ones. extent: how much a throttled run is held back, and for how
    much longer.
    """
    live = run.state.is_live
    began = throttling.current(events) if live else None
    badge = status.health_of(run) if live else status.state_of(run)
    word, alert = badge.word.capitalize(), ALERTS.get(run.health)
    if live and run.health in (Health.STALLED, Health.DISCONNECTED):
        if run.health is Health.STALLED and run.applied.settings.paused:
            return HealthSummary(f"{word} since step {run.applied.step:,}: resume it in the settings.")
        since = f"{word} since {numbers.moment(run.last_seen, now, zone)} (step {run.step:,})"
        return HealthSummary(f"{since}: no telemetry since.", alert)
    if live and (kind := _KINDS.get(run.health)):
        if kind is EventKind.THROTTLED and began is not None:
            return _throttled(began, events, word, alert, extent, numbers.moment(began.time, now, zone))
        found = _episode([one for one in events if one.kind is kind])
        if not found:
            return HealthSummary(f"{word}.", alert, throttled=kind is EventKind.THROTTLED)
        first = shown = found[-1]
        if kind is EventKind.SPIKE:
            shown = max(found, key=lambda one: one.value or 0.0)
        earlier = " or earlier" if more and first is events[-1] else ""
        since = f"{word} since {numbers.moment(first.time, now, zone)}{earlier} (step {first.step:,})"
        count = f"{len(found):,} events" if len(found) > 1 else ""
        held = (extent and f"throttled: {extent}") if began is not None else ""
        text = "; ".join(filter(None, (since, _where(shown, "worst "), count, held)))
        return HealthSummary(text, alert, shown.id, throttled=began is not None)
    if live and run.health is Health.CALM:
        word += _small_targets(run)
    newest = next((one for one in events if one.kind in (EventKind.SPIKE, EventKind.NONFINITE)), None)
    if newest is None:
        return HealthSummary(f"{word}: no spike and no non-finite gradient so far.")
    what = "spike" if newest.kind is EventKind.SPIKE else "non-finite gradient"
    when = f"{word}: last {what} {numbers.moment(newest.time, now, zone)} (step {newest.step:,})"
    return HealthSummary("; ".join(filter(None, (when, _where(newest)))), None, newest.id)


def _small_targets(run: RunSummary) -> str:
    """Words for statistics that are young, fewer steps than gamma2's half-life, and for small targets without a spike.

    Norms fall faster than gamma2 forgets, as they do in most runs' first steps, and nothing needs to be done.
    """
    settings = run.applied.settings
    if settings.mode is Mode.OFF or not 0 < settings.gamma2 < 1:
        return ""
    if run.target_min is not None and run.target_min < THROTTLED_TARGET:
        target = numbers.number(run.target_min, 2)
        if run.step * (1 - settings.gamma2) < 1:
            return f", warming up (smallest target {target}: norms fall faster than gamma2 forgets)"
        return f", norms fall faster than gamma2 forgets (smallest target {target})"
    half_life = math.log(0.5) / math.log(settings.gamma2)
    return f", warming up ({numbers.half_life(settings.gamma2)})" if run.step < half_life else ""


def _throttled(
    began: Event, events: Sequence[Event], word: str, alert: str | None, extent: str, since: str
) -> HealthSummary:
    spike = throttling.cause(began, events)
    by = f" by the {throttling.spike_words(spike)}" if spike else f"; {_where(began)}" if began.parameter else ""
    text = "; ".join(filter(None, (f"{word} since {since} (step {began.step:,}){by}", extent)))
    return HealthSummary(text, alert, (spike or began).id, throttled=True)


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
