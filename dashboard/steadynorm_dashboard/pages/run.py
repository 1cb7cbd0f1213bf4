"""One run, live: how it does, its charts, its settings, and what happened to it."""

from __future__ import annotations

import time

import streamlit as st

from steadynorm_contract.client import ClientError
from steadynorm_contract.views import AuditEntry, RevisionState, RunDetail
from steadynorm_dashboard import (
    automatic,
    charts,
    controls,
    guidance,
    header,
    headline,
    heat_panel,
    marks,
    route,
    session,
    shown,
    snapshot,
    status,
    tables,
    text,
    undo,
    units,
)
from steadynorm_dashboard.choice import chosen_row
from steadynorm_dashboard.live_chart import live_chart, preload

__all__ = ["render"]

_RECENT = 5
_CHART_OPTIONS = {"modeBarButtons": [["zoom2d", "pan2d", "autoScale2d", "resetScale2d"]]}


def render(run_id: str) -> None:
    """The page."""
    header.bar(back=True)
    if session.client() is None:
        guidance.sign_in()
    run, error = _read_run(run_id)
    if run is None:
        if error is not None:
            guidance.explain(error)
        _wait_for(run_id)
        return
    top, end = st.container(), st.container()
    with end:
        preload()
    with top:
        _page(run)


def _page(run: RunDetail) -> None:
    run_id = run.run_id
    headline.panel(run_id)
    charts_column, settings_column = st.columns([2.2, 1], gap="medium")
    with charts_column:
        _charts(run_id)
        heat_panel.panel(run_id)
        _tables(run_id)
    with settings_column:
        controls.panel(run)
        _recent_changes(run_id)


def _read_run(run_id: str) -> tuple[RunDetail | None, ClientError | None]:
    return snapshot.read(f"{run_id}/run", lambda client: client.run(run_id))


def _tables(run_id: str) -> None:
    parameters, changes, events, by_itself = st.tabs(["Parameters", "Changes", "Events", "Automatic"])
    with parameters:
        _parameters(run_id)
    with changes:
        _audit(run_id)
    with events:
        _events(run_id)
    with by_itself:
        automatic.panel(run_id)


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
    now = shown.controls(run_id, run.step)
    series, _ = snapshot.read(
        f"{run_id}/series/{now.window}",
        lambda client: client.series(run_id, charts.NAMES, start=now.start, stop=now.stop, points=charts.BUCKETS),
        share=now.question,
        still=now.still,
    )
    audit, _ = snapshot.read(f"{run_id}/audit", lambda client: client.audit(run_id))
    events, _ = snapshot.read(f"{run_id}/events", lambda client: client.events(run_id), share="newest")
    recorded = series.series if series else {}
    along = shown.axis(run_id, now, recorded.values(), run.started)
    figure = charts.run_figure(
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
    shown.follow(run_id, gesture, along)


def _open(run_id: str, clicked: str) -> None:
    """What a click on a mark asks for."""
    kind, _, which = clicked.partition(":")
    match kind:
        case marks.INCIDENT:
            route.go(run=run_id, incident=which)
        case marks.CHANGE:
            route.go(run=run_id, change=which)
        case marks.STEPS:
            first, _, last = which.partition("-")
            shown.zoom(run_id, int(first), int(last))


@st.fragment(run_every=1)
def _recent_changes(run_id: str) -> None:
    audit, _ = snapshot.read(f"{run_id}/audit", lambda client: client.audit(run_id))
    if audit is None or not audit.entries:
        return
    _follow(run_id, audit.entries[0])
    st.markdown("**Recent changes**")
    now = time.time()
    for entry in audit.entries[:_RECENT]:
        with st.container(border=True, gap="xxsmall"):
            st.markdown(f"**r{entry.revision}** {text.markdown(marks.change_words(entry), 300)}")
            look = status.revision(entry.state)
            st.badge(text.badge(status.revision_words(entry), 300), color=look.color, icon=look.icon, help=look.help)
            why = f" · {text.markdown(entry.reason, 200)}" if entry.reason else ""
            st.caption(f"{text.markdown(entry.actor, 60)} · {units.moment(entry.time, now, st.context.timezone)}{why}")


def _follow(run_id: str, newest: AuditEntry) -> None:
    """Somebody else changed the settings: a panel without edits follows, one with edits is told."""
    draft = controls.behind(run_id, newest.revision)
    if draft is None:
        return
    if draft.changes():
        st.warning(
            f"{text.markdown(newest.actor)} set r{newest.revision} while you are editing: "
            f"{text.markdown(marks.change_words(newest), 300)}. Apply takes it in first, and keeps your edits."
        )
        return
    followed = f"{run_id}/followed"
    if st.session_state.get(followed) != newest.revision:
        st.session_state[followed] = newest.revision
        st.rerun()


@st.fragment(run_every=4)
def _parameters(run_id: str) -> None:
    answer, _ = snapshot.read(f"{run_id}/parameters", lambda client: client.parameters(run_id), share="newest")
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
        placeholder=units.MISSING,
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
        route.go(run=run_id, parameter=tables.full_name(answer.parameters, str(rows[row]["parameter"])))


@st.fragment(run_every=2)
def _audit(run_id: str) -> None:
    answer, _ = snapshot.read(f"{run_id}/audit", lambda client: client.audit(run_id))
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
        route.go(run=run_id, change=str(answer.entries[at].revision))
    run, _ = _read_run(run_id)
    if run is not None:
        undo.panel(run, answer.entries)


@st.fragment(run_every=2)
def _events(run_id: str) -> None:
    answer, _ = snapshot.read(f"{run_id}/events", lambda client: client.events(run_id), share="newest")
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
            "step": st.column_config.NumberColumn(width=70),
            "event": st.column_config.TextColumn(width=85),
            "what happened": st.column_config.TextColumn(width=590),
            "value": st.column_config.NumberColumn(format="%.4g", width=75),
        },
        on_select="rerun",
        selection_mode=["single-row", "single-cell"],
    )
    if (at := chosen_row(picked)) is not None and at < len(answer.events):
        route.go(run=run_id, incident=answer.events[at].id)
