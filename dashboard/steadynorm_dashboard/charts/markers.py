"""What is pointed at on the charts: spikes, non-finite gradients, and the steps at which settings changed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.rule import SPIKE_RATIO
from steadynorm_contract.runs import RevisionState
from steadynorm_contract.series import Series
from steadynorm_dashboard.formatting.changes import change_words

__all__ = ["CHANGE", "INCIDENT", "STEPS", "ChangeMark", "StepMark", "changes", "nonfinite", "spikes"]

INCIDENT, CHANGE, STEPS = "incident", "change", "steps"
"""What a click on a mark leads to: the first word of its key."""


@dataclass(frozen=True, slots=True)
class ChangeMark:
    """A revision that took effect. `words` is not escaped: it holds an operator's name and reason."""

    step: int
    label: str
    words: str
    key: str = ""  # what a click on it answers: `change:` and the revision
    revision: int = 0


@dataclass(frozen=True, slots=True)
class StepMark:
    """Something that happened at a step, or within the bucket that starts there. `words` is not escaped."""

    step: int
    height: float  # of the raw norm, where the mark stands
    words: str
    key: str = ""  # what a click on it answers: `incident:` and the event's id, else `steps:` and its bucket's


def changes(entries: Iterable[AuditEntry], first: int, last: int) -> list[ChangeMark]:
    """The revisions applied in steps first..last, oldest first."""
    return [
        ChangeMark(
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


def spikes(series: Mapping[str, Series], events: Iterable[Event], limit: int) -> list[StepMark]:
    """The buckets in which a tensor spiked, the tallest `limit` of them, in step order.

    The series decides, since it covers every step; an event of the bucket adds the exact step and the tensor's name.
    """
    ratios = series.get("spike_ratio_max")
    if ratios is None:
        return []
    known = [event for event in events if event.kind is EventKind.SPIKE]
    marks: list[tuple[float, StepMark]] = []
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
        words = f"spike ×{ratio:.3g}{where}, {when}"
        marks.append((ratio, StepMark(worst.step if worst else first, height, words, _key(worst, first, last))))
    tallest = sorted(marks, key=lambda mark: -mark[0])[:limit]
    return sorted((mark for _, mark in tallest), key=lambda mark: mark.step)


def nonfinite(series: Mapping[str, Series], events: Iterable[Event], limit: int) -> list[StepMark]:
    """The newest `limit` buckets with NaN or infinite gradients, in step order, at the height of the norm before."""
    counts = series.get("nonfinite")
    if counts is None:
        return []
    known = [event for event in events if event.kind is EventKind.NONFINITE]
    marks = []
    for index, (step, most) in enumerate(zip(counts.step, counts.max, strict=True)):
        if not most or (height := _raw_norm_at(series, step)) is None:
            continue
        last = _last_step(counts, index)
        words = f"{most:.0f} non-finite {'gradient' if most == 1 else 'gradients'}, step {step}"
        marks.append(StepMark(step, height, words, _key(_worst(known, step, last), step, last)))
    return marks[-limit:]


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
    """The largest raw norm of the bucket that holds `step`; of the nearest one before it where that has none."""
    norms = series.get("raw_norm")
    if norms is None:
        return None
    for at in range(bisect_right(norms.step, step) - 1, -1, -1):
        norm = norms.max[at]
        if norm is not None and norm > 0:
            return norm
    return None
