"""Markers on the charts: spikes, non-finite gradients, causes of small targets, steps at which settings changed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.notes import Note
from steadynorm_contract.rule import SPIKE_RATIO
from steadynorm_contract.runs import RevisionState
from steadynorm_contract.series import Series
from steadynorm_contract.words import counted
from steadynorm_dashboard.formatting.changes import change_words
from steadynorm_dashboard.formatting.timeline import author, said

INCIDENT, CHANGE, STEPS = "incident", "change", "steps"
"""What a click on a marker opens: the part of its key before the colon."""

MAX_MARKERS = 40
"""Markers of each kind in a figure."""
_NOTE_CHARACTERS = 90


@dataclass(frozen=True, slots=True)
class ChangeMarker:
    """A revision that took effect. `text` is not escaped: it contains an operator's name and reason."""

    step: int
    label: str
    text: str
    key: str  # returned on a click: `change:` and the revision
    revision: int


@dataclass(frozen=True, slots=True)
class StepMarker:
    """Something that happened at a step, or within the bucket that starts there. `text` is not escaped."""

    step: int
    height: float  # the raw norm, or the target, at which the marker is drawn
    text: str
    key: str  # returned on a click: `incident:` and the event's id, else `steps:` and the bucket's first and last step


def changes(entries: Iterable[AuditEntry], first: int, last: int) -> list[ChangeMarker]:
    """The newest revisions that were applied in steps first..last, oldest first."""
    found = [
        ChangeMarker(
            entry.applied_step,
            f"r{entry.revision} @ step {entry.applied_step}",
            f"{change_words(entry)} ({entry.actor}{': ' + entry.reason if entry.reason else ''})",
            f"{CHANGE}:{entry.revision}",
            entry.revision,
        )
        for entry in sorted(entries, key=lambda entry: entry.revision)
        if entry.state is RevisionState.APPLIED
        and entry.applied_step is not None
        # A change takes effect before its step is recorded: the newest one may lie one step past the data.
        and first <= entry.applied_step <= last + 1
    ]
    return found[-MAX_MARKERS:]


def spikes(series: Mapping[str, Series], events: Iterable[Event]) -> list[StepMarker]:
    """The buckets with the largest spikes, in step order.

    They are found in the series, which covers every step; an event in the bucket adds the exact step and the tensor.
    """
    ratios = series.get("spike_ratio_max")
    if ratios is None:
        return []
    known = [event for event in events if event.kind is EventKind.SPIKE]
    found: list[tuple[float, StepMarker]] = []
    for index, ratio in enumerate(ratios.max):
        if ratio is None or ratio <= SPIKE_RATIO:
            continue
        height = _raw_norm_at(series, ratios.step[index])
        if height is None:
            continue
        first = ratios.step[index]
        last = _last_step(ratios, index)
        worst = _worst(known, first, last)
        where = f" in {worst.parameter}" if worst and worst.parameter else ""
        when = f"step {worst.step}" if worst else f"step {first}" if first == last else f"steps {first} to {last}"
        text = f"spike ×{ratio:.3g}{where}, {when}"
        found.append((ratio, StepMarker(worst.step if worst else first, height, text, _key(worst, first, last))))
    largest = sorted(found, key=lambda each: -each[0])[:MAX_MARKERS]
    return sorted((marker for _, marker in largest), key=lambda marker: marker.step)


def nonfinite(series: Mapping[str, Series], events: Iterable[Event]) -> list[StepMarker]:
    """The newest buckets with NaN or infinite gradients, in step order, at the height of the norm before."""
    counts = series.get("nonfinite")
    if counts is None:
        return []
    known = [event for event in events if event.kind is EventKind.NONFINITE]
    found = []
    for index, (step, most) in enumerate(zip(counts.step, counts.max, strict=True)):
        if not most or (height := _raw_norm_at(series, step)) is None:
            continue
        last = _last_step(counts, index)
        text = f"{counted(round(most), 'non-finite gradient')}, step {step}"
        found.append(StepMarker(step, height, text, _key(_worst(known, step, last), step, last)))
    return found[-MAX_MARKERS:]


def nonfinite_losses(series: Mapping[str, Series]) -> list[StepMarker]:
    """The newest buckets with NaN or infinite losses, in step order, at the largest loss that is drawn."""
    flags, losses = series.get("loss_nonfinite"), series.get("loss")
    if flags is None or losses is None:
        return []
    height = max((loss for loss in losses.max if loss is not None), default=1.0)
    found = []
    for index, (step, most) in enumerate(zip(flags.step, flags.max, strict=True)):
        if not most:
            continue
        last = _last_step(flags, index)
        number = round((flags.mean[index] or 0.0) * flags.count[index]) or 1
        where = f"step {step}" if step == last else f"steps {step} to {last}"
        text = f"{counted(number, 'non-finite loss', 'non-finite losses')}, {where}"
        found.append(StepMarker(step, height, text, _key(None, step, last)))
    return found[-MAX_MARKERS:]


_SMALL = {
    EventKind.THROTTLED: "throttled by a spike",
    EventKind.FALLING: "norms fall faster than gamma2 forgets: no spike",
}
"""Why a target is small, by the event that tells of it."""


def small_targets(series: Mapping[str, Series], events: Iterable[Event]) -> list[StepMarker]:
    """The newest events that say why targets are small, in step order, at the height of the target."""
    targets = series.get("target_min")
    if targets is None or not targets.step:
        return []
    first, last = targets.step[0], _last_step(targets, len(targets.step) - 1)
    found = [
        StepMarker(event.step, event.value, f"{_SMALL[event.kind]}, step {event.step}", f"{INCIDENT}:{event.id}")
        for event in events
        if event.kind in _SMALL and event.value is not None and first <= event.step <= last
    ]
    return sorted(sorted(found, key=lambda marker: -marker.step)[:MAX_MARKERS], key=lambda marker: marker.step)


def notes(series: Mapping[str, Series], notes: Iterable[Note]) -> list[StepMarker]:
    """The newest notes whose steps are shown, in step order. A click opens the incident that a note is about."""
    norms = series.get("raw_norm")
    if norms is None or not norms.step:
        return []
    first, last = norms.step[0], _last_step(norms, len(norms.step) - 1)
    found = [
        StepMarker(
            note.step,
            height,
            f"{said(note)[:_NOTE_CHARACTERS]} ({author(note)}), step {note.step}",
            f"{INCIDENT}:{note.event}" if note.event else "",
        )
        for note in notes
        if first <= note.step <= last and (height := _raw_norm_at(series, note.step)) is not None
    ]
    return sorted(found[:MAX_MARKERS], key=lambda marker: marker.step)


def _last_step(series: Series, index: int) -> int:
    """The last step of a bucket."""
    if index + 1 < len(series.step):
        return series.step[index + 1] - 1
    return series.step[index] + series.count[index] - 1


def _worst(known: Iterable[Event], first: int, last: int) -> Event | None:
    within = [event for event in known if first <= event.step <= last]
    return max(within, key=lambda event: event.value or 0.0, default=None)


def _key(event: Event | None, first: int, last: int) -> str:
    return f"{INCIDENT}:{event.id}" if event else f"{STEPS}:{first}-{last}"


def _raw_norm_at(series: Mapping[str, Series], step: int) -> float | None:
    """The largest raw norm of the bucket that contains `step`, or of the nearest one before it that has any."""
    norms = series.get("raw_norm")
    if norms is None:
        return None
    for at in range(bisect_right(norms.step, step) - 1, -1, -1):
        norm = norms.max[at]
        if norm is not None and norm > 0:
            return norm
    return None
