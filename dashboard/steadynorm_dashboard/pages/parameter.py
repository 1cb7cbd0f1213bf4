"""One parameter of a run, live: its norm and statistics, its target, and a histogram of its norms."""

from __future__ import annotations

import streamlit as st

from steadynorm_contract.signals import PARAMETER_SIGNALS, signal
from steadynorm_contract.words import counted
from steadynorm_dashboard import navigation
from steadynorm_dashboard.charts import markers, parameter
from steadynorm_dashboard.components.live_chart import live_chart
from steadynorm_dashboard.components.live_region import live_region
from steadynorm_dashboard.data import queries, view
from steadynorm_dashboard.formatting import escaping, numbers
from steadynorm_dashboard.panels import chart_controls, chart_view, messages, page_header, quiet, run_header, run_view

_BUCKETS = 300
_HISTOGRAM_BUCKETS = 2000


def render(run_id: str, name: str) -> None:
    """The page."""
    page_header.bar(run_id=run_id)
    place = _place(run_id, name)
    view.open_page(
        {"run": run_id, "parameter": name},
        (*run_view.chart_parts(place, parameter.PANELS), run_view.zoom_part(place)),
    )
    st.title(escaping.markdown(name, 300), anchor=False)
    quiet.runs(run_id)
    _numbers(run_id, name)
    _charts(run_id, name)


def _place(run_id: str, name: str) -> str:
    return f"{run_id}/parameter/{name}"


@st.fragment(run_every=2)
def _numbers(run_id: str, name: str) -> None:
    run, error = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    answer, _ = queries.fetch(f"{run_id}/parameters", lambda client: client.parameters(run_id))
    if run is None or answer is None:
        messages.show_error(error)
        return
    found = next((one for one in answer.parameters if one.name == name), None)
    if found is None:
        st.error(
            "This run has no parameter with this name. Open one from the run's Parameters tab.",
            icon=":material/search_off:",
        )
        return
    at = f"as of step {answer.step:,}" if answer.step is not None else "no rows recorded yet"
    sides = " × ".join(map(str, found.shape))
    values = counted(found.numel, "value")
    shape = f"{sides} = {values}" if len(found.shape) > 1 else values
    about = f"{escaping.markdown(run.name)} · {shape} · {escaping.markdown(found.dtype)} · {at} · " + (
        "recorded in every step"
        if run.detail_every == 1
        else f"recorded every {run.detail_every} steps, and every step around a spike"
    )
    live_region(run_header.announcement(run))
    if error is None:
        st.caption(about)
    else:
        messages.stale_data()
    shown = (*PARAMETER_SIGNALS, signal("spike_ratio_max/"), signal("spikes/"))
    with st.container(key="numbers"):  # style.css places them
        for of in shown:
            digits = 3 if of.threshold else 4
            st.metric(of.title, numbers.number(getattr(found, of.name), digits), help=of.description)


@st.fragment(run_every=2)
def _charts(run_id: str, name: str) -> None:
    run, _ = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    if run is None:
        return
    place = _place(run_id, name)
    viewport = chart_controls.controls(place, run.step, parameter.PANELS)
    view.write()
    key = f"{place}/{viewport.window}"
    answer, error = queries.fetch(
        key,
        lambda client: client.series(
            run_id,
            [f"{column}/{name}" for column in parameter.COLUMNS],
            start=viewport.start,
            stop=viewport.stop,
            points=_BUCKETS,
        ),
        share=viewport.shared_key,
        immutable=viewport.immutable,
    )
    if answer is None:
        messages.show_error(error)
        return
    audit, _ = queries.fetch(f"{run_id}/audit", lambda client: client.audit(run_id))
    series = {column: answer.series[f"{column}/{name}"] for column in parameter.COLUMNS}
    x_axis = chart_controls.axis(place, viewport, series.values(), run.started)
    figure = parameter.parameter_figure(
        series,
        audit.entries if audit else [],
        revision=f"{key}/{viewport.revision}/{x_axis.unit[0]}",
        x_axis=x_axis,
        view=chart_view.current(place, parameter.PANELS),
    )
    if figure is None:
        st.info(
            "No rows of this parameter in this range yet: the agent sends them every few steps (`detail_every`) and "
            "around spikes. Choose a larger range, or wait.",
            icon=":material/hourglass_empty:",
        )
        return
    gesture = live_chart(figure, key=f"{place}/chart", name="Charts of the parameter", clicks=True, zooms=True)
    kind, _, revision = (gesture.clicked or "").partition(":")
    if kind == markers.CHANGE:
        navigation.open_page(run=run_id, change=revision)
    chart_controls.apply_zoom(place, gesture, x_axis)
    fine, _ = queries.fetch(
        f"{key}/histogram",
        lambda client: client.series(
            run_id, [f"raw_norm/{name}"], start=viewport.start, stop=viewport.stop, points=_HISTOGRAM_BUCKETS
        ),
        share=viewport.shared_key,
        immutable=viewport.immutable,
    )
    histogram = parameter.histogram(fine.series[f"raw_norm/{name}"]) if fine else None
    st.header("Distribution of its norms", anchor=False)
    if histogram is None:
        st.caption("The histogram appears after a few more recorded steps.")
        return
    live_chart(histogram, key=f"{place}/histogram", name="Distribution of its norms")
