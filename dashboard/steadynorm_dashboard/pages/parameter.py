"""One parameter of a run, live: its norm and statistics, its target, and how its norms are spread."""

from __future__ import annotations

import streamlit as st

from steadynorm_contract.series import ParameterView
from steadynorm_dashboard import navigation
from steadynorm_dashboard.charts import markers, parameter
from steadynorm_dashboard.components.live_chart import live_chart
from steadynorm_dashboard.data import queries, session
from steadynorm_dashboard.formatting import escaping, numbers
from steadynorm_dashboard.panels import chart_controls, messages, page_header

__all__ = ["render"]

_BUCKETS = 300
_SPREAD_BUCKETS = 2000
_OPTIONS = {"modeBarButtons": [["zoom2d", "pan2d", "autoScale2d", "resetScale2d"]]}


def render(run_id: str, name: str) -> None:
    """The page."""
    page_header.bar(run_id=run_id)
    if session.client() is None:
        messages.sign_in()
    st.title(escaping.markdown(name, 300), anchor=False)
    _numbers(run_id, name)
    _charts(run_id, name)


@st.fragment(run_every=2)
def _numbers(run_id: str, name: str) -> None:
    run, error = queries.read(f"{run_id}/run", lambda client: client.run(run_id))
    answer, _ = queries.read(f"{run_id}/parameters", lambda client: client.parameters(run_id))
    if run is None or answer is None:
        if error is not None:
            messages.explain(error)
        return
    found = next((one for one in answer.parameters if one.name == name), None)
    if found is None:
        st.error("This run has no parameter of that name. Open it from the run's table.", icon=":material/search_off:")
        return
    at = f"as of step {answer.step:,}" if answer.step is not None else "no rows recorded yet"
    sides = " × ".join(map(str, found.shape))
    values = f"{found.numel:,} values" if found.numel != 1 else "1 value"
    shape = f"{sides} = {values}" if len(found.shape) > 1 else values
    about = (
        f"{escaping.markdown(run.name)} · {shape} · {escaping.markdown(found.dtype)} · {at} · "
        f"a row every {run.detail_every} steps, and each step around a spike"
    )
    if error is None:
        st.caption(about)
    else:
        messages.held()
    metrics = _metrics(found)
    for column, (label, value, words) in zip(st.columns(len(metrics)), metrics, strict=True):
        column.metric(label, value, help=words)


def _metrics(found: ParameterView) -> tuple[tuple[str, str, str], ...]:
    return (
        ("raw norm", numbers.number(found.raw_norm), "L2 norm of the gradient, before the stabilizer"),
        ("mean", numbers.number(found.norm_mean), "decayed mean of the norms (gamma1)"),
        ("RMS", numbers.number(found.norm_rms), "decayed root mean square of the norms (gamma2)"),
        ("target", numbers.number(found.target, 3), "mean over RMS: about 1 in calm training, throttled below 0.3"),
        ("scale", numbers.number(found.scale), "factor on the gradient"),
        (
            "spike ratio",
            numbers.number(found.spike_ratio, 3),
            "raw norm over the RMS norm before it; above 10: a spike",
        ),
        ("largest ratio", numbers.number(found.spike_ratio_max, 3), "since the run began"),
        ("spikes", numbers.number(found.spikes), "in recorded rows, since the run began"),
    )


@st.fragment(run_every=2)
def _charts(run_id: str, name: str) -> None:
    run, _ = queries.read(f"{run_id}/run", lambda client: client.run(run_id))
    if run is None:
        return
    place = f"{run_id}/parameter/{name}"
    now = chart_controls.controls(place, run.step)
    key = f"{place}/{now.window}"
    answer, error = queries.read(
        key,
        lambda client: client.series(
            run_id,
            [f"{column}/{name}" for column in parameter.COLUMNS],
            start=now.start,
            stop=now.stop,
            points=_BUCKETS,
        ),
        share=now.question,
        still=now.still,
    )
    if answer is None:
        if error is not None:
            messages.explain(error)
        return
    audit, _ = queries.read(f"{run_id}/audit", lambda client: client.audit(run_id))
    series = {column: answer.series[f"{column}/{name}"] for column in parameter.COLUMNS}
    along = chart_controls.axis(place, now, series.values(), run.started)
    figure = parameter.parameter_figure(
        series, audit.entries if audit else [], revision=f"{key}/{now.revision}/{along.unit[0]}", along=along
    )
    if figure is None:
        st.info(
            "No rows of this parameter yet in these steps: the agent sends them every few steps (`detail_every`), and "
            "around spikes. Choose more steps, or wait.",
            icon=":material/hourglass_empty:",
        )
        return
    gesture = live_chart(figure, key=f"{place}/chart", options=_OPTIONS, clicks=True, zooms=True)
    kind, _, revision = (gesture.clicked or "").partition(":")
    if kind == markers.CHANGE:
        navigation.go(run=run_id, change=revision)
    chart_controls.follow(place, gesture, along)
    fine, _ = queries.read(
        f"{key}/spread",
        lambda client: client.series(
            run_id, [f"raw_norm/{name}"], start=now.start, stop=now.stop, points=_SPREAD_BUCKETS
        ),
        share=now.question,
        still=now.still,
    )
    spread = parameter.histogram(fine.series[f"raw_norm/{name}"]) if fine else None
    st.markdown("**How its norms are spread**")
    if spread is None:
        st.caption("With a few more recorded steps there will be a histogram here.")
        return
    live_chart(spread, key=f"{place}/spread", options=_OPTIONS)
