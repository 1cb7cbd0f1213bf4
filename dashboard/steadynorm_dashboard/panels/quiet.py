"""What a page watches for changes, so that its live parts are drawn when there is something new: see `quiet_timers`."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import streamlit as st
from msgspec.structs import replace

from steadynorm_contract.client import Client
from steadynorm_contract.fleet import FleetResponse
from steadynorm_contract.runs import RunDetail
from steadynorm_contract.telemetry import AgentCounters
from steadynorm_dashboard.components import quiet_timers
from steadynorm_dashboard.components.quiet_timers import Seen
from steadynorm_dashboard.data import queries

_REST_S = 2.5
"""What a run's own answer does not tell (notes, events, the list of changes) is read in every third look."""


def runs(*run_ids: str) -> None:
    """The page shows these runs."""
    rest: tuple[float, object] = (float("-inf"), None)
    # The charts' own reads: visitors of one run share them for a moment.
    reads = [queries.reader(f"{run_id}/run", partial(_run, run_id), share="newest") for run_id in run_ids]
    key = f"watched/{'/'.join(run_ids)}"
    others = queries.reader(key, lambda client: [_rest(client, run_id) for run_id in run_ids])
    if others is None:
        return

    def look() -> Seen:
        nonlocal rest
        found = [read() for read in reads if read is not None]
        if time.monotonic() - rest[0] >= _REST_S:
            rest = (time.monotonic(), others())
        return Seen([replace(run, last_seen=0.0) for run in found], ([_without_numbers(run) for run in found], rest[1]))

    quiet_timers.watch(st.context.headers, key, look)


def fleet(key: str, request: Callable[[Client], FleetResponse]) -> None:
    """The page shows the answer to this request, which `queries` shares under `key`."""
    if (read := queries.reader(key, request, share="")) is not None:
        quiet_timers.watch(st.context.headers, key, lambda: Seen(None, _without_times(read())))


def nothing() -> None:
    """The page that is opened has not said yet what it shows."""
    quiet_timers.stop(st.context.headers)


def awaits() -> None:
    """The page waits for what comes of a write."""
    quiet_timers.touch(st.context.headers)


def _run(run_id: str, client: Client) -> RunDetail:
    return client.run(run_id)


def _rest(client: Client, run_id: str) -> object:
    notes = client.notes(run_id, 1)
    return notes.notes, notes.incidents, client.events(run_id, 1).events, client.audit(run_id, 1).entries


def _without_numbers(run: RunDetail) -> RunDetail:
    """Without what changes in every batch of a run that trains."""
    return replace(
        run,
        step=0,
        last_seen=0.0,
        loss=None,
        learning_rate=None,
        raw_norm=None,
        stabilized_norm=None,
        target_min=None,
        spike_ratio_max=None,
        steps_per_s=None,
        redis_bytes=0,
        counters=replace(run.counters, steps=0),
        agent=AgentCounters(),
        scalars=[replace(one, value=None, step=None) for one in run.scalars],
    )


def _without_times(answer: FleetResponse) -> FleetResponse:
    return replace(answer, runs=[replace(run, last_seen=0.0) for run in answer.runs])
