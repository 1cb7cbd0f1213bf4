"""What a page watches for changes, so that its live parts are drawn when there is something new: see `quiet_timers`."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import streamlit as st

from steadynorm_contract.client import Client
from steadynorm_contract.fleet import FleetResponse
from steadynorm_dashboard.components import quiet_timers
from steadynorm_dashboard.data import queries

_REST_S = 2.5
"""What a run's own answer does not tell (notes, events, the list of changes) is read in every third look."""


def runs(*run_ids: str) -> None:
    """The page shows these runs."""
    rest: tuple[float, object] = (float("-inf"), None)

    def look(client: Client) -> object:
        nonlocal rest
        found = [msgspec.structs.replace(client.run(run_id), last_seen=0.0) for run_id in run_ids]
        if time.monotonic() - rest[0] >= _REST_S:
            rest = (time.monotonic(), [_rest(client, run_id) for run_id in run_ids])
        return found, rest[1]

    key = f"watched/{'/'.join(run_ids)}"
    if (read := queries.reader(key, look)) is not None:
        quiet_timers.watch(st.context.headers, key, read)


def fleet(key: str, request: Callable[[Client], FleetResponse]) -> None:
    """The page shows the answer to this request, which `queries` shares under `key`."""
    if (read := queries.reader(key, request, share="")) is not None:
        quiet_timers.watch(st.context.headers, key, lambda: _without_times(read()))


def nothing() -> None:
    """The page that is opened has not said yet what it shows."""
    quiet_timers.stop(st.context.headers)


def awaits() -> None:
    """The page waits for what comes of a write."""
    quiet_timers.touch(st.context.headers)


def _rest(client: Client, run_id: str) -> object:
    notes = client.notes(run_id, 1)
    return notes.notes, notes.incidents, client.events(run_id, 1).events, client.audit(run_id, 1).entries


def _without_times(answer: FleetResponse) -> FleetResponse:
    return msgspec.structs.replace(answer, runs=[msgspec.structs.replace(run, last_seen=0.0) for run in answer.runs])
