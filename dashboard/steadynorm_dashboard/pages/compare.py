"""Runs over each other, live: their charts by step or by time, and in which settings they differ."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from steadynorm_contract.client import NotFound
from steadynorm_contract.runs import RunDetail
from steadynorm_dashboard import navigation
from steadynorm_dashboard.charts import comparison
from steadynorm_dashboard.charts.comparison import Compared
from steadynorm_dashboard.components.live_chart import live_chart
from steadynorm_dashboard.data import queries, session
from steadynorm_dashboard.formatting import escaping, numbers, run_differences, status
from steadynorm_dashboard.panels import chart_controls, messages, page_header

__all__ = ["render"]

_OPTIONS = {"modeBarButtons": [["zoom2d", "pan2d", "autoScale2d", "resetScale2d"]]}
_PLACE = "compare"


def render(asked: str) -> None:
    """The page. asked: ids of runs, with commas between."""
    page_header.bar(back=True)
    if session.client() is None:
        messages.sign_in()
    st.title("Compare runs", anchor=False)
    chosen = _choose(asked)
    if len(chosen) < 2:
        st.info(
            "Choose two runs or more above, or mark them in the list of all runs.", icon=":material/stacked_line_chart:"
        )
    if chosen:
        _runs(tuple(chosen))


def _choose(asked: str) -> list[str]:
    """The runs to compare, and the way to others. An id that is unknown here stays, and is told."""
    given = list(dict.fromkeys(one.strip() for one in asked.split(",") if one.strip()))
    listed, _ = queries.read("compare/list", lambda client: client.runs())
    names = {run.run_id: run.name for run in listed.runs} if listed else {}

    def label(run_id: str) -> str:
        name = names.get(run_id)
        return escaping.visible(run_id if name is None else f"{name} · {run_id}", 100)

    chosen = st.multiselect(
        "Runs",
        [*names, *(one for one in given if one not in names)],
        default=given[: comparison.MOST],
        max_selections=comparison.MOST,
        format_func=label,
        key=f"{_PLACE}/runs/{asked}",
        placeholder="name of a run",
        label_visibility="collapsed",
    )
    if len(given) > comparison.MOST:
        st.warning(f"These are the first {comparison.MOST} of {len(given)} runs: more could not be told apart.")
    if chosen != given[: comparison.MOST]:
        navigation.go(compare=",".join(chosen))
    return chosen


@st.fragment(run_every=2)
def _runs(run_ids: tuple[str, ...]) -> None:
    found = [run for run_id in run_ids if (run := _read(run_id)) is not None]
    if not found:
        return
    _heads(found)
    _chart(found)
    _differences(found)
    st.markdown("**Link** for a colleague; it holds no token")
    st.code(navigation.address(compare=",".join(run_ids)), language=None)


def _read(run_id: str) -> RunDetail | None:
    run, error = queries.read(f"{run_id}/run", lambda client: client.run(run_id))
    if isinstance(error, NotFound):
        st.error(
            f"There is no run {escaping.markdown(run_id, 100)} on this server. It may have been deleted; the others "
            "are compared without it.",
            icon=":material/search_off:",
        )
    elif error is not None:
        messages.explain(error)
    return run


def _heads(runs: Sequence[RunDetail]) -> None:
    for column, run, label in zip(st.columns(len(runs)), runs, run_differences.labels(runs), strict=True):
        with column, st.container(border=True, gap="xxsmall"):
            page_header.link(f"**{escaping.markdown(label, 80)}**", run.run_id, help=escaping.markdown(run.run_id))
            with st.container(horizontal=True, gap="small"):
                for look in status.looks_of(run):
                    page_header.badge(look)
            st.caption(
                f"step {run.step:,} · loss {numbers.number(run.loss)} · {run.counters.spikes:,} spikes · "
                f"{escaping.markdown(status.settings_words(run))}"
            )


def _chart(runs: Sequence[RunDetail]) -> None:
    now = chart_controls.controls(_PLACE, max(run.step for run in runs), pause=False)
    points = comparison.buckets(len(runs))
    compared = []
    for run, label in zip(runs, run_differences.labels(runs), strict=True):
        of = chart_controls.current(_PLACE, run.step, run.run_id)
        answer, error = queries.read(
            f"{_PLACE}/{run.run_id}/{now.window}",
            lambda client, run=run, of=of: client.series(  # type: ignore[misc]  # bound now
                run.run_id, comparison.NAMES, start=of.start, stop=of.stop, points=points
            ),
            share=f"{of.question}/{points}",
            still=of.still and f"{of.still}/{points}",
        )
        if error is not None:
            messages.explain(error)
        compared.append(Compared(label, run.started, answer.series if answer else {}))
    unit = comparison.unit(compared)
    axes = {
        run.run_id: chart_controls.axis(_PLACE, now, each.series.values(), each.began, of=run.run_id, unit=unit)
        for run, each in zip(runs, compared, strict=True)
    }
    ids = "/".join(axes)
    figure = comparison.comparison_figure(
        compared, list(axes.values()), revision=f"{_PLACE}/{ids}/{now.revision}/{unit[0]}"
    )
    if figure is None:
        st.info("No steps are recorded in this range yet.", icon=":material/hourglass_empty:")
        return
    gesture = live_chart(figure, key=f"{_PLACE}/chart", options=_OPTIONS, zooms=True)
    chart_controls.follow(_PLACE, gesture, axes)


def _differences(runs: Sequence[RunDetail]) -> None:
    audits = {}
    for run in runs:
        answer, _ = queries.read(f"{run.run_id}/audit", lambda client, run=run: client.audit(run.run_id))  # type: ignore[misc]  # bound now
        audits[run.run_id] = answer.entries if answer else []
    found = run_differences.differences(runs, audits)
    apart = [one for one in found if one.differs]
    head, switch = st.columns([3, 1], vertical_alignment="center")
    head.markdown(f"**In what they differ**: {len(apart)} of {len(found)} settings and facts")
    everything = switch.toggle("Show what is the same, too", key=f"{_PLACE}/everything")
    listed = found if everything else apart
    if not listed:
        st.caption("All settings in force are the same, and so is what the runs were started with.")
        return
    st.dataframe(run_differences.rows(listed, runs), hide_index=True, key=f"{_PLACE}/differences")
