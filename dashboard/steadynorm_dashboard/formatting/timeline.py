"""Who did what in a run: changes of settings, notes and what people did about incidents, in one order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.incidents import IncidentState, IncidentStatus
from steadynorm_contract.notes import Note, action_words
from steadynorm_contract.words import counted
from steadynorm_dashboard.formatting import changes, numbers, status
from steadynorm_dashboard.formatting.escaping import visible
from steadynorm_dashboard.formatting.tables import Row


@dataclass(frozen=True, slots=True)
class Deed:
    """One of them. No text is escaped. `step`: at which it took effect or that it is about; None: not yet."""

    time: float  # Unix seconds
    who: str
    what: str
    step: int | None
    revision: int | None = None  # of a change of settings
    event: str | None = None  # id of the incident that a note is about


def deeds(entries: Iterable[AuditEntry], notes: Iterable[Note]) -> list[Deed]:
    """All of them, newest first."""
    changed = [
        Deed(
            entry.time,
            entry.actor,
            f"r{entry.revision}: {changes.change_words(entry)}, {status.revision_words(entry)}"
            + (f" ({entry.reason})" if entry.reason else ""),
            entry.applied_step,
            revision=entry.revision,
        )
        for entry in entries
    ]
    noted = [Deed(note.time, author(note), said(note), note.step, event=note.event) for note in notes]
    return sorted([*changed, *noted], key=lambda deed: -deed.time)


def near(found: Iterable[Deed], step: int, event: str | None, steps: int) -> list[Deed]:
    """Those about the incident or within so many steps of it, oldest first."""
    return [
        deed
        for deed in sorted(found, key=lambda deed: deed.time)
        if (event is not None and deed.event == event) or (deed.step is not None and abs(deed.step - step) <= steps)
    ]


def distance(step: int | None, other: int) -> str:
    """`12 steps after`; empty where the step is not known."""
    if step is None:
        return ""
    away = step - other
    if not away:
        return "at the same step"
    return f"{counted(abs(away), 'step')} {'before' if away < 0 else 'after'}"


def author(note: Note) -> str:
    """Whose note it is."""
    return f"{note.author} (agent)" if note.by_agent else note.author


def said(note: Note) -> str:
    """What a note does and says."""
    return ": ".join(filter(None, (action_words(note), note.text)))


def incident_words(incidents: Iterable[IncidentStatus], event: str | None) -> str:
    """`taken by ada`, `closed by bob`; empty: nobody took the incident. Not escaped."""
    found = next((each for each in incidents if each.event == event), None)
    return "" if found is None else f"{found.state.value} by {found.by}"


def holder_words(incidents: Iterable[IncidentStatus]) -> str:
    """`taken by ada`, of the latest incident that is taken and not closed; empty: there is none. Not escaped."""
    by = next((each.by for each in incidents if each.state is IncidentState.TAKEN), "")
    return f"taken by {by}" if by else ""


def note_rows(notes: Iterable[Note], now: float, zone: str | None) -> list[Row]:
    """One row per note, newest first."""
    return [
        {
            "when": numbers.moment(note.time, now, zone),
            "step": note.step,
            "who": visible(author(note), 60),
            "note": visible(said(note), 2200),
            "incident": "open" if note.event else "",
        }
        for note in notes
    ]
