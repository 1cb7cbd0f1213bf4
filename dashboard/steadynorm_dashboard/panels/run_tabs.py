"""What stands beneath a run's charts, one tab at a time: parameters, changes, events, what happens by itself."""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

from steadynorm_contract.runs import RevisionState
from steadynorm_dashboard import navigation
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import numbers, tables
from steadynorm_dashboard.panels import automation, export, undo

__all__ = ["chosen_row", "panel"]


def chosen_row(picked: Any) -> int | None:
    """The row of a table with `selection_mode` single-row or single-cell; None: none is chosen. Any cell will do."""
    selection = picked.get("selection", {}) if picked else {}
    rows, cells = selection.get("rows") or [], selection.get("cells") or []
    if rows:
        return int(rows[0])
    return int(cells[0][0]) if cells else None


@st.fragment(run_every=3)
def panel(run_id: str) -> None:
    """The tabs. Only the one that is looked at is read and drawn: it is most of what a page costs a browser."""
    parts = {
        "Parameters": _parameters,
        "Changes": _audit,
        "Events": _events,
        "Automatic": automation.panel,
        "Export": export.panel,
    }
    for tab, part in zip(st.tabs(list(parts), key=f"{run_id}/tab", on_change="rerun"), parts.values(), strict=True):
        if tab.open:
            with tab:
                part(run_id)


def _parameters(run_id: str) -> None:
    answer, _ = queries.read(f"{run_id}/parameters", lambda client: client.parameters(run_id), share="newest")
    if answer is None or not answer.parameters:
        st.caption("No parameters are registered.")
        return
    search, at = st.columns([1, 2], vertical_alignment="center")
    words = search.text_input(
        "Search parameters", placeholder="part of a name", label_visibility="collapsed", key=f"{run_id}/search"
    )
    rows = tables.parameter_rows(answer.parameters, words or "")
    at.caption(
        f"{len(rows):,} of {len(answer.parameters):,} parameters"
        + (f", as of step {answer.step:,}" if answer.step is not None else ", no rows recorded yet")
        + "; a click opens one"
    )
    number = st.column_config.NumberColumn
    picked = st.dataframe(
        rows,
        key=f"{run_id}/parameters",
        hide_index=True,
        height=420,
        placeholder=numbers.MISSING,
        column_config={
            "parameter": st.column_config.TextColumn(width="medium"),
            "note": st.column_config.TextColumn(width=120),
            "raw norm": number(format="%.4g", help="L2 norm of the gradient, before the stabilizer"),
            "mean": number(format="%.4g", help="decayed mean of the norms (gamma1)"),
            "RMS": number(format="%.4g", help="decayed root mean square of the norms (gamma2)"),
            "target": number(format="%.3g", help="mean over RMS: about 1 in calm training, throttled below 0.3"),
            "scale": number(format="%.4g", help="factor on the gradient"),
            "spike ratio": number(format="%.3g", help="raw norm over the RMS norm before it, now"),
            "largest": number(format="%.3g", help="the largest spike ratio since the run began"),
        },
        on_select="rerun",
        selection_mode=["single-row", "single-cell"],
    )
    if (row := chosen_row(picked)) is not None and row < len(rows):
        navigation.go(run=run_id, parameter=tables.full_name(answer.parameters, str(rows[row]["parameter"])))


def _audit(run_id: str) -> None:
    answer, _ = queries.read(f"{run_id}/audit", lambda client: client.audit(run_id))
    if answer is None or not answer.entries:
        st.caption("Nobody changed the settings yet.")
        return
    pending = sum(entry.state is RevisionState.PENDING for entry in answer.entries)
    st.caption(f"{len(answer.entries):,} changes, {pending} pending; a click opens one")
    picked = st.dataframe(
        tables.audit_rows(answer.entries, time.time(), st.context.timezone),
        key=f"{run_id}/audit",
        hide_index=True,
        column_config={
            "revision": st.column_config.TextColumn(width=70),
            "when": st.column_config.TextColumn(width=85),
            "state": st.column_config.TextColumn(width=190),
            "before → after": st.column_config.TextColumn(width=210),
            "who": st.column_config.TextColumn(width=85),
        },
        on_select="rerun",
        selection_mode=["single-row", "single-cell"],
    )
    if (at := chosen_row(picked)) is not None and at < len(answer.entries):
        navigation.go(run=run_id, change=str(answer.entries[at].revision))
    run, _ = queries.read(f"{run_id}/run", lambda client: client.run(run_id))
    if run is not None:
        undo.panel(run, answer.entries)


def _events(run_id: str) -> None:
    answer, _ = queries.read(f"{run_id}/events", lambda client: client.events(run_id), share="newest")
    if answer is None or not answer.events:
        st.caption("No events yet.")
        return
    st.caption("A click on an event opens what the flight recorder kept around it.")
    picked = st.dataframe(
        tables.event_rows(answer.events, time.time(), st.context.timezone),
        key=f"{run_id}/events",
        hide_index=True,
        column_config={
            "when": st.column_config.TextColumn(width=85),
            "step": st.column_config.NumberColumn(format="localized", width=85),
            "event": st.column_config.TextColumn(width=85),
            "what happened": st.column_config.TextColumn(width=590),
            "value": st.column_config.NumberColumn(format="%.4g", width=75),
        },
        on_select="rerun",
        selection_mode=["single-row", "single-cell"],
    )
    if (at := chosen_row(picked)) is not None and at < len(answer.events):
        navigation.go(run=run_id, incident=answer.events[at].id)
