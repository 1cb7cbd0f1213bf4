"""The tabs beneath a run's charts: parameters, changes, events, automation, configuration, export."""

from __future__ import annotations

import time

import streamlit as st

from steadynorm_contract.runs import RevisionState
from steadynorm_contract.signals import PARAMETER_SIGNALS
from steadynorm_contract.words import counted
from steadynorm_dashboard.components.data_table import data_table
from steadynorm_dashboard.data import queries, view
from steadynorm_dashboard.formatting import tables
from steadynorm_dashboard.formatting.tables import LARGEST_RATIO
from steadynorm_dashboard.panels import automation, configuration, export, notes, undo
from steadynorm_dashboard.panels.run_view import TABS

MAX_EVENTS = 2_000  # as many as the server returns at once


@st.fragment(run_every=3)
def panel(run_id: str) -> None:
    """The tabs. Only the open one is read and drawn: tables take most of a browser's time."""
    parts = (
        _parameters, _audit, _events, _recovery, notes.tab, automation.panel, configuration.tab, export.panel,
    )  # fmt: skip
    view.hold("tab")
    for tab, part in zip(st.tabs(TABS, key=f"{run_id}/tab", on_change="rerun"), parts, strict=True):
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
    found = tables.found_parameters(answer.parameters, words or "")
    at.caption(
        f"{len(found):,} of {counted(len(answer.parameters), 'parameter')}, "
        + (f"as of step {answer.step:,}" if answer.step is not None else "no rows recorded yet")
    )
    rows = tables.parameter_rows(found)
    data_table(
        rows,
        key=f"{run_id}/parameters",
        name="Parameters",
        links=[{"run": run_id, "parameter": one.name} for one in found],
        help={of.title: of.description for of in (*PARAMETER_SIGNALS, LARGEST_RATIO)},
        sortable=[title for title in (rows or [{}])[0] if title != "shape"],
    )


def _audit(run_id: str) -> None:
    answer, _ = queries.fetch(f"{run_id}/audit", lambda client: client.audit(run_id))
    if answer is None or not answer.entries:
        st.caption("The settings have not been changed yet.")
        return
    pending = sum(entry.state is RevisionState.PENDING for entry in answer.entries)
    st.caption(f"{counted(len(answer.entries), 'change')}, {pending} pending")
    data_table(
        tables.audit_rows(answer.entries, time.time(), st.context.timezone),
        key=f"{run_id}/audit",
        name="Changes",
        links=[{"run": run_id, "change": str(entry.revision)} for entry in answer.entries],
    )
    run, _ = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    if run is not None:
        undo.panel(run, answer.entries)


def _events(run_id: str) -> None:
    answer, _ = queries.fetch(f"{run_id}/events", lambda client: client.events(run_id), share="newest")
    if answer is None or not answer.events:
        st.caption("No events yet.")
        return
    st.caption("Open an event to see what the flight recorder stored around it.")
    data_table(
        tables.event_rows(answer.events, time.time(), st.context.timezone),
        key=f"{run_id}/events",
        name="Events",
        links=[{"run": run_id, "incident": event.id} for event in answer.events],
        linked="what happened",
        sortable=("step", "event", "value", "parameter", "batch"),
    )


def _recovery(run_id: str) -> None:
    run, _ = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    answer, _ = queries.fetch(
        f"{run_id}/recoveries", lambda client: client.events(run_id, limit=MAX_EVENTS), share="newest"
    )
    known = run.recovery if run is not None else None
    if known is None:
        st.caption("No snapshots are kept: pass recovery=steadynorm.Recovery() to attach().")
    elif run is not None:
        kept = ", ".join(f"{step:,}" for step in known.snapshots) or f"none yet, one is taken every {known.every_steps}"
        left = f"{counted(known.budget_left, 'automatic rollback')} left"
        st.caption(f"Mode {run.applied.settings.recovery}; snapshots of steps {kept}; {left}.")
        if unmet := tables.detector_rows(known.detectors, [each.name for each in run.scalars]):
            st.caption("Detectors that have seen no value yet:")
            data_table(unmet, key=f"{run_id}/detectors", name="Detectors")
    found = [] if answer is None else [event for event in answer.events if event.kind in tables.RECOVERIES]
    if found:
        data_table(
            tables.recovery_rows(found, time.time(), st.context.timezone),
            key=f"{run_id}/recoveries",
            name="Recovery",
            links=[{"run": run_id, "incident": event.id} for event in found],
            sortable=("from", "to"),
        )
    elif known is not None:
        st.caption("Nothing has been rolled back.")
