"""Which incident `steadynorm note --incident` is about, where several events are at one step."""

from __future__ import annotations

from typing import cast

import pytest

from steadynorm_cli.commands import audit, note
from steadynorm_cli.errors import CommandError
from steadynorm_contract.client import Client
from steadynorm_contract.events import Event, EventKind, EventList
from steadynorm_contract.notes import Note, NoteAction


class _Events:
    """Stands for the client of a server that has these events."""

    def __init__(self, *events: tuple[str, EventKind, int]) -> None:
        self._events = [Event(id=which, kind=kind, step=step, time=0.0, message="") for which, kind, step in events]

    def events(self, run_id: str, limit: int) -> EventList:
        return EventList(self._events)


def named(events: _Events, name: str) -> str:
    return note._event(cast("Client", events), "gpt-1", name)


def test_the_incident_of_a_step_is_preferred_and_several_are_named_by_their_ids() -> None:
    alone = _Events(("3-0", EventKind.AUTOMATION, 7), ("2-0", EventKind.THROTTLED, 7), ("1-0", EventKind.SPIKE, 7))
    assert (named(alone, "7"), named(alone, "3-0")) == ("1-0", "3-0")
    two = _Events(("2-0", EventKind.SPIKE, 7), ("1-0", EventKind.SPIKE, 7))
    with pytest.raises(CommandError, match=r"name one by its id: 2-0 \(spike\), 1-0 \(spike\)") as refused:
        named(two, "7")
    assert refused.value.code == 2
    with pytest.raises(CommandError, match="has no event at step '8'"):
        named(two, "8")


def test_the_name_of_who_takes_an_incident_commands_no_terminal() -> None:
    made = Note(time=0.0, author="ada", step=7, event="1-0", action=NoteAction.HAND_OVER, to="bob\x1b]0;x\x07")
    for line in (note.note_line(made), audit._note_line(made)):
        assert "hands the incident over to bob\\x1b]0;x\\x07" in line
