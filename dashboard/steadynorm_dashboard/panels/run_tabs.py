"""The tabs beneath a run's charts: parameters, changes, events, automation, export."""

from __future__ import annotations

import time
from typing import Any

import streamlit as st

from steadynorm_contract.runs import RevisionState
from steadynorm_contract.signals import PARAMETER_SIGNALS
from steadynorm_dashboard import navigation
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import numbers, tables
from steadynorm_dashboard.formatting.tables import LARGEST_RATIO
from steadynorm_dashboard.panels import automation, export, undo

_SELECTABLE: Any = {"on_select": "rerun", "selection_mode": ["single-row", "single-cell"]}


def selected_row(event: Any) -> int | None:
    """The selected row of a table, or the row of the selected cell. None: nothing is selected."""
    selection = event.get("selection", {}) if event else {}
    rows, cells = selection.get("rows") or [], selection.get("cells") or []
    if rows:
        return int(rows[0])
    return int(cells[0][0]) if cells else None


@st.fragment(run_every=3)
def panel(run_id: str) -> None:
    """The tabs. Only the open one is read and drawn: tables take most of a browser's time."""
    parts = {
        "Parameters": _parameters,
        "Changes": _audit,
        "Events": _events,
        "Automation": automation.panel,
        "Export": export.panel,
    }
    for tab, part in zip(st.tabs(list(parts), key=f"{run_id}/tab", on_change="rerun"), parts.values(), strict=True):
        if tab.open:
            with tab:
                part(run_id)


def _parameters(run_id: str) -> None:
    answer, _ = queries.fetch(f"{run_id}/parameters", lambda client: client.parameters(run_id), share="newest")
    if answer is None or not answer.parameters:
        st.caption("No parameters are registered.")
        return
    search, at = st.columns([1, 2], vertical_alignment="center")
    words = search.text_input(
        "Search parameters", placeholder="Search by name", label_visibility="collapsed", key=f"{run_id}/search"
    )
    rows = tables.parameter_rows(answer.parameters, words or "")
    at.caption(
        f"{len(rows):,} of {len(answer.parameters):,} parameters"
        + (f", as of step {answer.step:,}" if answer.step is not None else ", no rows recorded yet")
        + "; click one to open it"
    )
    picked = st.dataframe(
        rows,
        key=f"{run_id}/parameters",
        hide_index=True,
        height=420,
        placeholder=numbers.MISSING,
        column_config={
            "parameter": st.column_config.TextColumn(width="medium"),
            "note": st.column_config.TextColumn(width=120),
            **{
                of.title: st.column_config.NumberColumn(format="%.4g", help=of.description)
                for of in (*PARAMETER_SIGNALS, LARGEST_RATIO)
            },
        },
        **_SELECTABLE,
    )
    if (row := selected_row(picked)) is not None and row < len(rows):
        navigation.open_page(run=run_id, parameter=tables.full_name(answer.parameters, str(rows[row]["parameter"])))


def _audit(run_id: str) -> None:
    answer, _ = queries.fetch(f"{run_id}/audit", lambda client: client.audit(run_id))
    if answer is None or not answer.entries:
        st.caption("The settings have not been changed yet.")
        return
    pending = sum(entry.state is RevisionState.PENDING for entry in answer.entries)
    st.caption(f"{len(answer.entries):,} changes, {pending} pending; click one to open it")
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
        **_SELECTABLE,
    )
    if (at := selected_row(picked)) is not None and at < len(answer.entries):
        navigation.open_page(run=run_id, change=str(answer.entries[at].revision))
    run, _ = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    if run is not None:
        undo.panel(run, answer.entries)


def _events(run_id: str) -> None:
    answer, _ = queries.fetch(f"{run_id}/events", lambda client: client.events(run_id), share="newest")
    if answer is None or not answer.events:
        st.caption("No events yet.")
        return
    st.caption("Click an event to open what the flight recorder stored around it.")
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
        **_SELECTABLE,
    )
    if (at := selected_row(picked)) is not None and at < len(answer.events):
        navigation.open_page(run=run_id, incident=answer.events[at].id)
