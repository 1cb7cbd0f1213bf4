"""The charts of a run's logged scalars: which are shown, and which stand above the other charts."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from steadynorm_contract.runs import RunDetail
from steadynorm_contract.scalars import ScalarView
from steadynorm_contract.words import counted
from steadynorm_dashboard.charts.axis import Axis
from steadynorm_dashboard.charts.comparison import ComparedRun
from steadynorm_dashboard.charts.panels import MAP_LEFT_PX
from steadynorm_dashboard.charts.run import PANELS
from steadynorm_dashboard.charts.scalars import (
    AUTOMATIC,
    BUCKETS,
    MAX_CHARTS,
    compared_figure,
    grouped,
    scalars_figure,
    series_names,
)
from steadynorm_dashboard.components.live_chart import live_chart
from steadynorm_dashboard.data import queries, view
from steadynorm_dashboard.formatting import escaping
from steadynorm_dashboard.panels import chart_controls, chart_view, messages

CHOSEN, PINNED = "scalars", "scalars on top"
"""Ends of the keys under which the session state has the choices; absent while nobody has chosen."""


@st.fragment(run_every=3)
def panel(run_id: str) -> None:
    """The choice and the charts. Nothing where the run logs no scalars of its own."""
    run, _ = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id), share="newest")
    if run is None or not run.scalars:
        return
    names = [each.name for each in run.scalars]
    st.header(
        "Logged scalars", anchor=False, help="What the training loop passes to `agent.log()` under names of its own."
    )
    automatic = names[:AUTOMATIC]
    choose, pin = st.columns([2, 1])
    with choose:
        _choice(run_id, CHOSEN, "Charts", names, automatic)
    with pin:
        _choice(run_id, PINNED, "Pinned above the other charts", names, [])
    view.write()
    if run.scalars_omitted:
        omitted = counted(run.scalars_omitted, "value of further names is", "values of further names are")
        st.warning(f"A run has at most 256 logged scalars: {omitted} not stored.", icon=":material/warning:")
    chosen = st.session_state.get(f"{run_id}/{CHOSEN}", automatic)
    pinned = _pinned(run_id)
    for prefix, members in grouped([name for name in names if name in chosen and name not in pinned]).items():
        if prefix:
            st.subheader(escaping.markdown(prefix), anchor=False)
        _draw(run, members, prefix or " ", chart_controls.shown_axis(run_id))


def pinned(run: RunDetail, x_axis: Axis) -> None:
    """The charts that stand above the others."""
    chosen = _pinned(run.run_id)
    if names := [each.name for each in run.scalars if each.name in chosen]:
        _draw(run, names, PINNED, x_axis)


def compared(place: str, runs: Sequence[RunDetail], labels: Sequence[str], x_axes: Sequence[Axis]) -> None:
    """The choice and the charts of several runs. Nothing where none of them logs scalars of its own."""
    names = list(dict.fromkeys(each.name for run in runs for each in run.scalars))
    if not names:
        return
    st.header("Logged scalars", anchor=False)
    automatic = names[:AUTOMATIC]
    _choice(place, CHOSEN, "Charts", names, automatic)
    view.write()
    chosen = st.session_state.get(f"{place}/{CHOSEN}", automatic)
    found = []
    for run, label in zip(runs, labels, strict=True):
        of = chart_controls.current(place, run.step, run.run_id)
        own = [each.name for each in run.scalars if each.name in chosen]
        answer = None
        if own:
            answer, error = queries.fetch(
                f"{place}/{run.run_id}/scalars",
                lambda client, run=run, of=of, own=own: client.series(  # type: ignore[misc]  # bound now
                    run.run_id, own, start=of.start, stop=of.stop, points=BUCKETS
                ),
                share=f"{of.shared_key}/{own}",
            )
            messages.show_error(error)
        found.append(ComparedRun(label, run.started, answer.series if answer else {}))
    shown = [name for name in names if name in chosen]
    revision = f"{place}/{labels}/{shown}/{chart_controls.current(place, 0).revision}"
    drawn = chart_view.current(place, PANELS, bands=False)
    figure = compared_figure(found, x_axes, shown, revision=revision, view=drawn)
    if figure is None:
        st.caption("None of these scalars was logged in the steps shown.")
        return
    live_chart(figure, key=f"{place}/scalars/chart", name="Logged scalars of the compared runs")


def _pinned(run_id: str) -> Sequence[str]:
    names: Sequence[str] = st.session_state.get(f"{run_id}/{PINNED}") or ()
    return names


def _choice(run_id: str, what: str, label: str, names: list[str], automatic: list[str]) -> None:
    """A choice of names. Its widget begins anew where names were added, or where the address says something else."""
    state = f"{run_id}/{what}"
    known = [name for name in st.session_state.get(state, automatic) if name in names]
    widget = f"{state}/{len(names)}/{view.generation()}"
    st.multiselect(
        label,
        names,
        known,
        key=widget,
        max_selections=MAX_CHARTS,
        format_func=lambda name: escaping.visible(name, 60),
        on_change=_chose,
        args=(state, widget, automatic),
    )


def _chose(state: str, widget: str, automatic: list[str]) -> None:
    chosen = list(st.session_state[widget])
    if chosen == automatic:
        st.session_state.pop(state, None)
    else:
        st.session_state[state] = chosen


def _draw(run: RunDetail, names: list[str], key: str, x_axis: Axis) -> None:
    known: dict[str, ScalarView] = {each.name: each for each in run.scalars}
    run_id, viewport = run.run_id, chart_controls.current(run.run_id, run.step)
    requested = series_names(names, known)
    series, error = queries.fetch(
        f"{run_id}/scalars/{key}/{viewport.window}",
        lambda client: client.series(run_id, requested, start=viewport.start, stop=viewport.stop, points=BUCKETS),
        share=f"{viewport.shared_key}/{requested}",
        immutable=viewport.immutable and f"{viewport.immutable}/{requested}",
    )
    if series is None:
        messages.show_error(error)
        return
    figure = scalars_figure(
        series.series,
        [known[name] for name in names],
        revision=f"{run_id}/{viewport.revision}/{x_axis.unit[0]}/{names}",
        x_axis=x_axis,
        view=chart_view.current(run_id, PANELS),
        left_px=MAP_LEFT_PX,
    )
    if figure is None:
        st.caption("None of these scalars was logged in the steps shown.")
        return
    name = f"Charts of logged scalars: {', '.join(escaping.visible(each, 40) for each in names[:6])}"
    live_chart(figure, key=f"{run_id}/scalars/{key}", name=name, group=run_id, follows=True)
