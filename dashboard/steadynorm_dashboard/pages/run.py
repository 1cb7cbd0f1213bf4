"""One run, live: its health, charts, settings and history."""

from __future__ import annotations

import glob
import time

import streamlit as st

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.client import ClientError, NotFound
from steadynorm_contract.notes import Note
from steadynorm_contract.runs import RunDetail
from steadynorm_dashboard import navigation
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts.panels import MAP_LEFT_PX
from steadynorm_dashboard.charts.run import PANELS, RUN_BUCKETS, RUN_SERIES, run_figure
from steadynorm_dashboard.components import first_chart
from steadynorm_dashboard.components.live_chart import live_chart, preload
from steadynorm_dashboard.data import queries, view
from steadynorm_dashboard.formatting import changes, escaping, numbers, status
from steadynorm_dashboard.panels import (
    chart_controls,
    chart_view,
    heatmap,
    messages,
    notes,
    page_header,
    page_title,
    proposals,
    quiet,
    run_header,
    run_lifecycle,
    run_tabs,
    run_view,
    scalar_charts,
    settings,
)

_RECENT = 5


def render(run_id: str) -> None:
    """The page."""
    page_header.bar(back=True, skip=("settings", "settings"))
    view.open_page({"run": run_id}, run_view.parts(run_id))
    run, error = _read_run(run_id)
    if run is None:
        if isinstance(error, NotFound):
            _open_newest(run_id)
        messages.show_error(error)
        _wait_for(run_id)
        return
    quiet.runs(run_id)
    top, end = st.container(), st.container()
    with end:
        preload()
    with top:
        _page(run)


def _page(run: RunDetail) -> None:
    run_id = run.run_id
    run_header.panel(run_id)
    _lifecycle(run_id)
    with st.container(key="run-body"):
        # In the order of the keyboard: what acts on the run before what shows it. style.css places them.
        side, charts, tables = (st.container(key=f"run-{part}") for part in ("side", "charts", "tables"))
    with charts:
        _charts(run_id)
    with side:
        settings.panel(run)  # at once: the link past the head leads here, and a run that goes wrong is stopped here
    if not first_chart.is_drawn():
        return
    with charts:
        scalar_charts.panel(run_id)
        heatmap.panel(run_id)
    with side:
        proposals.panel(run_id)
        _recent_changes(run_id)
        notes.form(run_id)
    with tables:
        run_tabs.panel(run_id)
        _menu(run_id)


def _open_newest(name: str) -> None:
    """Where the address has a run's name instead of its id: open the newest run of that name, if there is one."""
    named, _ = queries.fetch(
        f"named/{name}",
        lambda client: client.runs(name=glob.escape(name), visibility=["listed", "archived"], limit=1),
    )
    if named is not None and named.runs:
        navigation.open_page(run=named.runs[0].run_id)


def _read_run(run_id: str) -> tuple[RunDetail | None, ClientError | None]:
    return queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))


@st.fragment(run_every=2)
def _wait_for(run_id: str) -> None:
    answer, error = _read_run(run_id)
    if answer is not None and error is None:
        st.rerun()


@st.fragment(run_every=3)
def _lifecycle(run_id: str) -> None:
    run, _ = _read_run(run_id)
    if run is not None:
        run_lifecycle.banner(run)


@st.fragment(run_every=3)
def _menu(run_id: str) -> None:
    run, _ = _read_run(run_id)
    if run is not None:
        run_lifecycle.menu(run)


@st.fragment(run_every=1)
def _charts(run_id: str) -> None:
    run, _ = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id), share="newest")
    if run is None:
        return
    page_title.show(run.name, status.badges_of(run)[-1])
    viewport = chart_controls.controls(run_id, run.step, PANELS, pins=True)
    view.write()
    above = st.container()
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
    drawn = chart_view.current(run_id, PANELS)
    figure = run_figure(
        recorded,
        audit.entries if audit else [],
        events.events if events else [],
        notes=notes.read(run_id).notes,
        revision=f"{run_id}/{viewport.revision}/{x_axis.unit[0]}/{drawn.pinned}",
        x_axis=x_axis,
        view=drawn,
        left_px=MAP_LEFT_PX,
    )
    if figure is None:
        empty = "No steps are stored in this range." if viewport.zoom else "Waiting for the first optimizer step."
        st.info(empty, icon=":material/hourglass_empty:")
        first_chart.skip()
        return
    with above:
        scalar_charts.pinned(run, x_axis)
    gesture = live_chart(figure, key=f"{run_id}/chart", name="Charts of the run", clicks=True, zooms=True, group=run_id)
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
    entries, noted = audit.entries if audit else [], notes.read(run_id).notes
    if entries:
        _update_draft(run_id, entries[0])
    if not entries and not noted:
        return
    st.header("Recent changes", anchor=False)
    now = time.time()
    recent: list[AuditEntry | Note] = [*entries[:_RECENT], *noted[:_RECENT]]
    for entry in sorted(recent, key=lambda each: -each.time)[:_RECENT]:
        with st.container(border=True, gap="xxsmall"):
            if isinstance(entry, Note):
                notes.card(entry, now)
                continue
            st.markdown(f"**r{entry.revision}** {escaping.markdown(changes.change_words(entry), 300)}")
            page_header.revision_badge(entry)
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
    run, _ = _read_run(run_id)
    if run is not None and run.desired.revision >= newest.revision:  # else the next refresh of this part tries again
        st.rerun()
