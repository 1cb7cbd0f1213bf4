"""Rows of the tables of parameters, changes and events. Cells are plain text, so names are not escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.conditions import no_value_words
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.rule import SPIKE_RATIO, THROTTLED_TARGET
from steadynorm_contract.series import ParameterView
from steadynorm_contract.signals import PARAMETER_SIGNALS, signal
from steadynorm_contract.telemetry import DetectorStatus
from steadynorm_contract.words import counted
from steadynorm_dashboard.formatting import changes, escaping, numbers, status

Row = dict[str, object]
LARGEST_RATIO = signal("spike_ratio_max/")


def found_parameters(parameters: Iterable[ParameterView], search: str = "") -> list[ParameterView]:
    """The parameters whose name contains every word of `search`; the largest spike ratio first."""
    words = search.lower().split()
    found = [one for one in parameters if all(word in one.name.lower() for word in words)]
    return sorted(found, key=lambda one: -(one.spike_ratio_max or one.spike_ratio or 0.0))


def parameter_rows(parameters: Iterable[ParameterView]) -> list[Row]:
    """One row per parameter."""
    return [
        {
            "parameter": escaping.visible(one.name, 200),
            "note": _note(one),
            LARGEST_RATIO.title: one.spike_ratio_max,
            signal("spike_ratio").title: one.spike_ratio,  # second, so that narrow windows show it
            "shape": " × ".join(map(str, one.shape)) or "scalar",
            **{of.title: getattr(one, of.name) for of in PARAMETER_SIGNALS},
        }
        for one in parameters
    ]


def _note(one: ParameterView) -> str:
    notes = []
    if one.spike_ratio is not None and one.spike_ratio > SPIKE_RATIO:
        notes.append("spiking")
    if one.target is not None and one.target < THROTTLED_TARGET:
        notes.append("small target")
    if not notes and one.spikes:
        notes.append(counted(one.spikes, "spike"))
    return ", ".join(notes)


def audit_rows(entries: Iterable[AuditEntry], now: float, zone: str | None) -> list[Row]:
    """One row per change, newest first."""
    return [
        {
            "revision": f"r{entry.revision}",
            "when": numbers.moment(entry.time, now, zone),
            "state": escaping.visible(status.revision_words(entry), 300),
            "before → after": changes.change_words(entry),
            "who": escaping.visible(entry.actor),
            "why": escaping.visible(entry.reason, 300),
        }
        for entry in entries
    ]


def change_rows(entry: AuditEntry) -> list[Row]:
    """One row per setting in the change."""
    return [
        {
            "setting": escaping.visible(name),
            "before": _setting(name, entry.before.get(name)),
            "after": _setting(name, value),
        }
        for name, value in entry.after.items()
    ]


def _setting(name: str, value: object) -> str:
    shown = numbers.setting(value)
    if name.startswith("gamma") and isinstance(value, float):
        return f"{shown} ({numbers.half_life(value)})"
    return shown


RECOVERIES = {
    EventKind.ROLLBACK: "rolled back",
    EventKind.ROLLBACK_ADVISED: "advised",
    EventKind.UNRECOVERABLE: "given up",
}


def event_rows(events: Iterable[Event], now: float, zone: str | None) -> list[Row]:
    """One row per event, newest first."""
    return [
        {
            "when": numbers.moment(event.time, now, zone),
            "step": event.step,
            "event": event.kind.value,
            "what happened": escaping.visible(event.message, 300),
            "value": event.value,
            "parameter": escaping.visible(event.parameter or "", 200),
            "batch": escaping.visible(event.batch_id or "", 200),
        }
        for event in events
    ]


def detector_rows(detectors: Iterable[DetectorStatus], logged: Sequence[str]) -> list[Row]:
    """One row for each detector that cannot be met so far. logged: names of scalars that the run has logged."""
    return [
        {
            "detector": escaping.visible(each.condition, 200),
            "state": escaping.visible(no_value_words(each.condition, logged), 300),
        }
        for each in detectors
        if not each.has_value
    ]


def _who(event: Event, why: str) -> str:
    """Who or what called for a rollback. Servers of before did not say who asked."""
    if event.actor is not None:
        return escaping.visible(event.actor, 200)
    return "a request" if why.startswith("requested") else "a detector"


def recovery_rows(events: Iterable[Event], now: float, zone: str | None) -> list[Row]:
    """One row for each rollback, made or only advised, and for the end of the budget, newest first."""
    return [
        {
            "when": numbers.moment(event.time, now, zone),
            "what": RECOVERIES[event.kind],
            "from": event.step,
            "to": None if event.value is None else int(event.value),
            "by": _who(event, why),
            "why": escaping.visible(why, 300),
        }
        for event in events
        if event.kind in RECOVERIES
        for why in [event.message.partition(": ")[2]]
    ]
