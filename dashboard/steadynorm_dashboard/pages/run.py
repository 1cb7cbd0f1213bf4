"""One run, live: how it does, its charts, its settings, and what happened to it."""

from __future__ import annotations

import time

import streamlit as st

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.client import ClientError
from steadynorm_contract.runs import RunDetail
from steadynorm_dashboard import navigation
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts import run as run_charts
from steadynorm_dashboard.components.live_chart import live_chart, preload
from steadynorm_dashboard.data import queries, session
from steadynorm_dashboard.formatting import changes, escaping, numbers, status
from steadynorm_dashboard.panels import chart_controls, heatmap, messages, page_header, run_header, run_tabs, settings

__all__ = ["render"]

_RECENT = 5
_CHART_OPTIONS = {"modeBarButtons": [["zoom2d", "pan2d", "autoScale2d", "resetScale2d"]]}


def render(run_id: str) -> None:
    """The page."""
    page_header.bar(back=True)
    if session.client() is None:
        messages.sign_in()
    run, error = _read_run(run_id)
    if run is None:
        if error is not None:
            messages.explain(error)
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
    return queries.read(f"{run_id}/run", lambda client: client.run(run_id))


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
    now = chart_controls.controls(run_id, run.step)
    series, _ = queries.read(
        f"{run_id}/series/{now.window}",
        lambda client: client.series(
            run_id, run_charts.NAMES, start=now.start, stop=now.stop, points=run_charts.BUCKETS
        ),
        share=now.question,
        still=now.still,
    )
    audit, _ = queries.read(f"{run_id}/audit", lambda client: client.audit(run_id))
    events, _ = queries.read(f"{run_id}/events", lambda client: client.events(run_id), share="newest")
    recorded = series.series if series else {}
    along = chart_controls.axis(run_id, now, recorded.values(), run.started)
    figure = run_charts.run_figure(
        recorded,
        audit.entries if audit else [],
        events.events if events else [],
        revision=f"{run_id}/{now.revision}/{along.unit[0]}",
        along=along,
    )
    if figure is None:
        nothing = "No steps are recorded in this range." if now.zoom else "Waiting for the first optimizer step."
        st.info(nothing, icon=":material/hourglass_empty:")
        return
    gesture = live_chart(figure, key=f"{run_id}/chart", options=_CHART_OPTIONS, clicks=True, zooms=True)
    _open(run_id, gesture.clicked or "")
    chart_controls.follow(run_id, gesture, along)


def _open(run_id: str, clicked: str) -> None:
    """What a click on a mark asks for."""
    kind, _, which = clicked.partition(":")
    match kind:
        case markers.INCIDENT:
            navigation.go(run=run_id, incident=which)
        case markers.CHANGE:
            navigation.go(run=run_id, change=which)
        case markers.STEPS:
            first, _, last = which.partition("-")
            chart_controls.zoom(run_id, int(first), int(last))


@st.fragment(run_every=2)
def _recent_changes(run_id: str) -> None:
    audit, _ = queries.read(f"{run_id}/audit", lambda client: client.audit(run_id))
    if audit is None or not audit.entries:
        return
    _follow(run_id, audit.entries[0])
    st.markdown("**Recent changes**")
    now = time.time()
    for entry in audit.entries[:_RECENT]:
        with st.container(border=True, gap="xxsmall"):
            st.markdown(f"**r{entry.revision}** {escaping.markdown(changes.change_words(entry), 300)}")
            look = status.revision(entry.state)
            st.badge(
                escaping.badge(status.revision_words(entry), 300), color=look.color, icon=look.icon, help=look.help
            )
            why = f" · {escaping.markdown(entry.reason, 200)}" if entry.reason else ""
            st.caption(
                f"{escaping.markdown(entry.actor, 60)} · {numbers.moment(entry.time, now, st.context.timezone)}{why}"
            )


def _follow(run_id: str, newest: AuditEntry) -> None:
    """Somebody else changed the settings: a panel without edits follows, one with edits is told."""
    draft = settings.behind(run_id, newest.revision)
    if draft is None:
        return
    if draft.changes():
        st.warning(
            f"{escaping.markdown(newest.actor)} set r{newest.revision} while you are editing: "
            f"{escaping.markdown(changes.change_words(newest), 300)}. Apply takes it in first, and keeps your edits."
        )
        return
    followed = f"{run_id}/followed"
    if st.session_state.get(followed) != newest.revision:
        st.session_state[followed] = newest.revision
        st.rerun()
