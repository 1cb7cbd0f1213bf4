"""One settings change of a run: who, when, why, its state, and the charts around the step at which it was applied."""

from __future__ import annotations

import time

import streamlit as st

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.client import ClientError
from steadynorm_contract.runs import RevisionState, RunDetail
from steadynorm_dashboard import navigation
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts.run import RUN_BUCKETS, RUN_SERIES, run_figure
from steadynorm_dashboard.components.data_table import data_table
from steadynorm_dashboard.components.live_chart import live_chart
from steadynorm_dashboard.components.live_region import live_region
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import escaping, numbers, status, tables
from steadynorm_dashboard.formatting.changes import change_words
from steadynorm_dashboard.panels import messages, notes, page_header, quiet

_AROUND = 400
"""Steps shown on each side."""


def render(run_id: str, revision: str) -> None:
    """The page."""
    page_header.bar(run_id=run_id)
    quiet.runs(run_id)
    _change(run_id, revision)


@st.fragment(run_every=2)
def _change(run_id: str, revision: str) -> None:
    run, error = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    audit, _ = queries.fetch(f"{run_id}/audit", lambda client: client.audit(run_id))
    if run is None or audit is None:
        messages.show_error(error or ClientError("The server does not answer."))
        return
    entry = next((one for one in audit.entries if str(one.revision) == revision), None)
    if entry is None:
        st.error(
            f"There is no r{escaping.markdown(revision, 20)} among this run's newest {len(audit.entries):,} changes. "
            "`steadynorm audit` lists all of them.",
            icon=":material/search_off:",
        )
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.title(f"Change r{entry.revision}", anchor=False, width="content")
        page_header.revision_badge(entry)
    live_region(f"Change r{entry.revision}: {escaping.visible(status.revision_words(entry), 200)}")
    st.caption(
        f"{escaping.markdown(run.name)} · {escaping.markdown(entry.actor)} · "
        f"{numbers.moment(entry.time, time.time(), st.context.timezone)}{_took(entry)}"
    )
    st.markdown(f"**Reason:** {escaping.markdown(entry.reason, 500)}" if entry.reason else "No reason was given.")
    if entry.remark:
        st.warning(escaping.markdown(entry.remark, 1000), icon=":material/warning:")
    left, right = st.columns([1, 1])
    with left:
        data_table(tables.change_rows(entry), key=f"{run_id}/change/{revision}", name="Settings in this change")
    with right:
        page_header.share_link(run=run_id, change=revision)
        if entry.hash:
            st.caption(f"Audit log hash {entry.hash[:16]}; `steadynorm audit --verify` checks the hash chain.")
    if entry.applied_step is not None:
        _around(run, entry, audit.entries)
        notes.near(run_id, entry.applied_step)


def _took(entry: AuditEntry) -> str:
    """How long the run took to apply it, by the clocks of the server and of the job."""
    if entry.state is not RevisionState.APPLIED or entry.applied_time is None:
        return ""
    seconds = entry.applied_time - entry.time
    return f" · applied after {f'{numbers.number(seconds, 2)} s' if seconds < 10 else numbers.duration(seconds)}"


def _around(run: RunDetail, entry: AuditEntry, entries: list[AuditEntry]) -> None:
    at = entry.applied_step or 0
    start, stop = max(0, at - _AROUND), at + _AROUND
    series, error = queries.fetch(
        f"{run.run_id}/change/{entry.revision}",
        lambda client: client.series(run.run_id, RUN_SERIES, start=start, stop=stop, points=RUN_BUCKETS),
        immutable="all" if run.step > stop else None,
    )
    if series is None:
        messages.show_error(error)
        return
    events, _ = queries.fetch(f"{run.run_id}/events", lambda client: client.events(run.run_id))
    figure = run_figure(
        series.series, entries, events.events if events else [], revision=f"{run.run_id}/change/{entry.revision}"
    )
    if figure is None:
        st.info("No steps around this change are stored.", icon=":material/history:")
        return
    st.header(f"{_AROUND} steps before and after: {escaping.markdown(change_words(entry), 300)}", anchor=False)
    clicked = (
        live_chart(figure, key=f"{run.run_id}/change/chart", name="Charts around the change", clicks=True).clicked or ""
    )
    kind, _, which = clicked.partition(":")
    if kind == markers.INCIDENT:
        navigation.open_page(run=run.run_id, incident=which)
    if kind == markers.CHANGE and which != str(entry.revision):
        navigation.open_page(run=run.run_id, change=which)
