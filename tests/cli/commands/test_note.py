"""Which incident `steadynorm note --incident` is about, where several events are at one step."""

from __future__ import annotations

from typing import cast

import pytest

from steadynorm_cli.commands import note
from steadynorm_cli.errors import CommandError
from steadynorm_contract.client import Client
from steadynorm_contract.events import Event, EventKind, EventList


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
