"""One run, live: its health, charts, settings and history."""

from __future__ import annotations

import time

import streamlit as st

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.client import ClientError
from steadynorm_contract.runs import RunDetail
from steadynorm_dashboard import navigation
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts.run import RUN_BUCKETS, RUN_SERIES, run_figure
from steadynorm_dashboard.components.live_chart import live_chart, preload
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import changes, escaping, numbers, status
from steadynorm_dashboard.panels import chart_controls, heatmap, messages, page_header, run_header, run_tabs, settings

_RECENT = 5


def render(run_id: str) -> None:
    """The page."""
    page_header.bar(back=True)
    run, error = _read_run(run_id)
    if run is None:
        if error is not None:
            messages.show_error(error)
        _wait_for(run_id)
        return
    top, end = st.container(), st.container()
    with end:
        preload()
    with top:
        _page(run)


def _page(run: RunDetail) -> None:
    run_id = run.run_id
    run_header.panel(run_id)
    charts_column, settings_column = st.columns([2.2, 1], gap="medium")
    with charts_column:
        _charts(run_id)
        heatmap.panel(run_id)
        run_tabs.panel(run_id)
    with settings_column:
        settings.panel(run)
        _recent_changes(run_id)


def _read_run(run_id: str) -> tuple[RunDetail | None, ClientError | None]:
    return queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))


@st.fragment(run_every=2)
def _wait_for(run_id: str) -> None:
    answer, error = _read_run(run_id)
    if answer is not None and error is None:
        st.rerun()


@st.fragment(run_every=1)
def _charts(run_id: str) -> None:
    run, _ = _read_run(run_id)
    if run is None:
        return
    viewport = chart_controls.controls(run_id, run.step)
    series, _ = queries.fetch(
        f"{run_id}/series/{viewport.window}",
        lambda client: client.series(run_id, RUN_SERIES, start=viewport.start, stop=viewport.stop, points=RUN_BUCKETS),
        share=viewport.shared_key,
        immutable=viewport.immutable,
    )
    audit, _ = queries.fetch(f"{run_id}/audit", lambda client: client.audit(run_id))
    events, _ = queries.fetch(f"{run_id}/events", lambda client: client.events(run_id), share="newest")
    recorded = series.series if series else {}
    x_axis = chart_controls.axis(run_id, viewport, recorded.values(), run.started)
    figure = run_figure(
        recorded,
        audit.entries if audit else [],
        events.events if events else [],
        revision=f"{run_id}/{viewport.revision}/{x_axis.unit[0]}",
        x_axis=x_axis,
    )
    if figure is None:
        empty = "No steps are stored in this range." if viewport.zoom else "Waiting for the first optimizer step."
        st.info(empty, icon=":material/hourglass_empty:")
        return
    gesture = live_chart(figure, key=f"{run_id}/chart", clicks=True, zooms=True)
    _open(run_id, gesture.clicked or "")
    chart_controls.apply_zoom(run_id, gesture, x_axis)


def _open(run_id: str, clicked: str) -> None:
    """Open what a clicked marker links to."""
    kind, _, which = clicked.partition(":")
    match kind:
        case markers.INCIDENT:
            navigation.open_page(run=run_id, incident=which)
        case markers.CHANGE:
            navigation.open_page(run=run_id, change=which)
        case markers.STEPS:
            first, _, last = which.partition("-")
            chart_controls.zoom(run_id, int(first), int(last))


@st.fragment(run_every=2)
def _recent_changes(run_id: str) -> None:
    audit, _ = queries.fetch(f"{run_id}/audit", lambda client: client.audit(run_id))
    if audit is None or not audit.entries:
        return
    _update_draft(run_id, audit.entries[0])
    st.markdown("**Recent changes**")
    now = time.time()
    for entry in audit.entries[:_RECENT]:
        with st.container(border=True, gap="xxsmall"):
            st.markdown(f"**r{entry.revision}** {escaping.markdown(changes.change_words(entry), 300)}")
            state = status.revision(entry.state)
            st.badge(
                escaping.badge(status.revision_words(entry), 300), color=state.color, icon=state.icon, help=state.help
            )
            why = f" · {escaping.markdown(entry.reason, 200)}" if entry.reason else ""
            st.caption(
                f"{escaping.markdown(entry.actor, 60)} · {numbers.moment(entry.time, now, st.context.timezone)}{why}"
            )


def _update_draft(run_id: str, newest: AuditEntry) -> None:
    """After a change by someone else: refresh a settings panel without edits, warn in one with edits."""
    draft = settings.outdated_draft(run_id, newest.revision)
    if draft is None:
        return
    if draft.changes():
        st.warning(
            f"{escaping.markdown(newest.actor)} set r{newest.revision} while you are editing: "
            f"{escaping.markdown(changes.change_words(newest), 300)}. Apply rebases your edits on it first."
        )
        return
    key = f"{run_id}/refreshed"
    if st.session_state.get(key) != newest.revision:
        st.session_state[key] = newest.revision
        st.rerun()
