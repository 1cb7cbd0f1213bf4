"""One change of a run's settings: who, when, why, what came of it and when, and the run around that step."""

from __future__ import annotations

import time

import streamlit as st

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.client import ClientError
from steadynorm_contract.runs import RevisionState, RunDetail
from steadynorm_dashboard import navigation
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts import run as run_charts
from steadynorm_dashboard.components.live_chart import live_chart
from steadynorm_dashboard.data import queries, session
from steadynorm_dashboard.formatting import escaping, numbers, status, tables
from steadynorm_dashboard.formatting.changes import change_words
from steadynorm_dashboard.panels import messages, page_header

__all__ = ["render"]

_AROUND = 400
"""Steps shown to each side."""

_OPTIONS = {"modeBarButtons": [["zoom2d", "pan2d", "autoScale2d", "resetScale2d"]]}


def render(run_id: str, revision: str) -> None:
    """The page."""
    page_header.bar(run_id=run_id)
    if session.client() is None:
        messages.sign_in()
    _change(run_id, revision)


@st.fragment(run_every=2)
def _change(run_id: str, revision: str) -> None:
    run, error = queries.read(f"{run_id}/run", lambda client: client.run(run_id))
    audit, _ = queries.read(f"{run_id}/audit", lambda client: client.audit(run_id))
    if run is None or audit is None:
        messages.explain(error or ClientError("The server does not answer. Open this page again."))
        return
    entry = next((one for one in audit.entries if str(one.revision) == revision), None)
    if entry is None:
        st.error(
            f"This run has no change r{escaping.markdown(revision, 20)} among its newest {len(audit.entries):,}. "
            "`steadynorm audit` lists all of them.",
            icon=":material/search_off:",
        )
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.title(f"Change r{entry.revision}", anchor=False, width="content")
        look = status.revision(entry.state)
        st.badge(escaping.badge(status.revision_words(entry), 300), color=look.color, icon=look.icon, help=look.help)
    st.caption(
        f"{escaping.markdown(run.name)} · {escaping.markdown(entry.actor)} · "
        f"{numbers.moment(entry.time, time.time(), st.context.timezone)}{_took(entry)}"
    )
    st.markdown(f"**Why:** {escaping.markdown(entry.reason, 500)}" if entry.reason else "No reason was given.")
    facts, address = st.columns([1, 1])
    with facts:
        st.dataframe(tables.change_rows(entry), hide_index=True, key=f"{run_id}/change/{revision}/table")
    with address:
        st.markdown("**Link** for a colleague; it holds no token")
        st.code(navigation.address(run=run_id, change=revision), language=None)
        if entry.hash:
            st.caption(f"Entry {entry.hash[:16]} of the audit chain; `steadynorm audit --verify` checks it.")
    if entry.applied_step is not None:
        _around(run, entry, audit.entries)


def _took(entry: AuditEntry) -> str:
    """How long the run took to take it up, by two clocks."""
    if entry.state is not RevisionState.APPLIED or entry.applied_time is None:
        return ""
    seconds = entry.applied_time - entry.time
    return f" · in force after {numbers.number(seconds, 2) if seconds < 10 else numbers.duration(seconds)}" + (
        " s" if seconds < 10 else ""
    )


def _around(run: RunDetail, entry: AuditEntry, entries: list[AuditEntry]) -> None:
    at = entry.applied_step or 0
    start, stop = max(0, at - _AROUND), at + _AROUND
    series, error = queries.read(
        f"{run.run_id}/change/{entry.revision}",
        lambda client: client.series(run.run_id, run_charts.NAMES, start=start, stop=stop, points=run_charts.BUCKETS),
        still="all" if run.step > stop else None,
    )
    if series is None:
        if error is not None:
            messages.explain(error)
        return
    events, _ = queries.read(f"{run.run_id}/events", lambda client: client.events(run.run_id))
    figure = run_charts.run_figure(
        series.series, entries, events.events if events else [], revision=f"{run.run_id}/change/{entry.revision}"
    )
    if figure is None:
        st.info("No steps around it are recorded.", icon=":material/history:")
        return
    st.subheader(f"{_AROUND} steps before and after: {escaping.markdown(change_words(entry), 300)}", anchor=False)
    clicked = live_chart(figure, key=f"{run.run_id}/change/chart", options=_OPTIONS, clicks=True).clicked or ""
    kind, _, which = clicked.partition(":")
    if kind == markers.INCIDENT:
        navigation.go(run=run.run_id, incident=which)
    if kind == markers.CHANGE and which != str(entry.revision):
        navigation.go(run=run.run_id, change=which)
