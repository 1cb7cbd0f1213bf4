"""Several runs in one figure, live, by step or by time, and a table of how they differ."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from steadynorm_contract.client import NotFound
from steadynorm_contract.runs import RunDetail
from steadynorm_dashboard import navigation
from steadynorm_dashboard.charts import comparison
from steadynorm_dashboard.charts.comparison import ComparedRun
from steadynorm_dashboard.components.live_chart import live_chart
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import escaping, numbers, run_differences, status
from steadynorm_dashboard.panels import chart_controls, messages, page_header

_PLACE = "compare"


def render(run_ids: str) -> None:
    """The page. run_ids: separated by commas."""
    page_header.bar(back=True)
    st.title("Comparing runs", anchor=False)
    chosen = _choose(run_ids)
    if len(chosen) < 2:
        st.info(
            "Choose two or more runs above, or mark them in the runs overview.", icon=":material/stacked_line_chart:"
        )
    if chosen:
        _runs(tuple(chosen))


def _choose(run_ids: str) -> list[str]:
    """A selector of runs. An unknown id stays selected, and `_read` shows an error for it."""
    given = list(dict.fromkeys(one.strip() for one in run_ids.split(",") if one.strip()))
    listed, _ = queries.fetch("compare/list", lambda client: client.runs())
    names = {run.run_id: run.name for run in listed.runs} if listed else {}

    def label(run_id: str) -> str:
        name = names.get(run_id)
        return escaping.visible(run_id if name is None else f"{name} · {run_id}", 100)

    chosen = st.multiselect(
        "Runs",
        [*names, *(one for one in given if one not in names)],
        default=given[: comparison.MAX_RUNS],
        max_selections=comparison.MAX_RUNS,
        format_func=label,
        key=f"{_PLACE}/runs/{run_ids}",
        placeholder="name of a run",
        label_visibility="collapsed",
    )
    if len(given) > comparison.MAX_RUNS:
        st.warning(
            f"Showing the first {comparison.MAX_RUNS} of {len(given)} runs: more lines could not be distinguished."
        )
    if chosen != given[: comparison.MAX_RUNS]:
        navigation.open_page(compare=",".join(chosen))
    return chosen


@st.fragment(run_every=2)
def _runs(run_ids: tuple[str, ...]) -> None:
    found = [run for run_id in run_ids if (run := _read(run_id)) is not None]
    if not found:
        return
    _headers(found)
    _chart(found)
    _differences(found)
    page_header.share_link(compare=",".join(run_ids))


def _read(run_id: str) -> RunDetail | None:
    run, error = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    if isinstance(error, NotFound):
        st.error(
            f"There is no run {escaping.markdown(run_id, 100)} on this server. It may have been deleted. The "
            "comparison shows the other runs.",
            icon=":material/search_off:",
        )
    elif error is not None:
        messages.show_error(error)
    return run


def _headers(runs: Sequence[RunDetail]) -> None:
    for column, run, label in zip(st.columns(len(runs)), runs, run_differences.labels(runs), strict=True):
        with column, st.container(border=True, gap="xxsmall"):
            page_header.link(f"**{escaping.markdown(label, 80)}**", run.run_id, help=escaping.markdown(run.run_id))
            with st.container(horizontal=True, gap="small"):
                for state in status.badges_of(run):
                    page_header.badge(state)
            st.caption(
                f"step {run.step:,} · loss {numbers.number(run.loss)} · {run.counters.spikes:,} spikes · "
                f"{escaping.markdown(status.settings_words(run))}"
            )


def _chart(runs: Sequence[RunDetail]) -> None:
    viewport = chart_controls.controls(_PLACE, max(run.step for run in runs), pause=False)
    points = comparison.buckets(len(runs))
    compared = []
    for run, label in zip(runs, run_differences.labels(runs), strict=True):
        of = chart_controls.current(_PLACE, run.step, run.run_id)
        answer, error = queries.fetch(
            f"{_PLACE}/{run.run_id}/{viewport.window}",
            lambda client, run=run, of=of: client.series(  # type: ignore[misc]  # bound now
                run.run_id, comparison.COMPARED_SERIES, start=of.start, stop=of.stop, points=points
            ),
            share=f"{of.shared_key}/{points}",
            immutable=of.immutable and f"{of.immutable}/{points}",
        )
        if error is not None:
            messages.show_error(error)
        compared.append(ComparedRun(label, run.started, answer.series if answer else {}))
    unit = comparison.unit(compared)
    axes = {
        run.run_id: chart_controls.axis(_PLACE, viewport, each.series.values(), each.started, of=run.run_id, unit=unit)
        for run, each in zip(runs, compared, strict=True)
    }
    ids = "/".join(axes)
    figure = comparison.comparison_figure(
        compared, list(axes.values()), revision=f"{_PLACE}/{ids}/{viewport.revision}/{unit[0]}"
    )
    if figure is None:
        st.info("No steps are recorded in this range yet.", icon=":material/hourglass_empty:")
        return
    gesture = live_chart(figure, key=f"{_PLACE}/chart", zooms=True)
    chart_controls.apply_zoom(_PLACE, gesture, axes)


def _differences(runs: Sequence[RunDetail]) -> None:
    audits = {}
    for run in runs:
        answer, _ = queries.fetch(f"{run.run_id}/audit", lambda client, run=run: client.audit(run.run_id))  # type: ignore[misc]  # bound now
        audits[run.run_id] = answer.entries if answer else []
    found = run_differences.differences(runs, audits)
    differing = [one for one in found if one.differs]
    head, switch = st.columns([3, 1], vertical_alignment="center")
    head.markdown(f"**Differences**: {len(differing)} of {len(found)} settings and properties")
    everything = switch.toggle("Show equal values too", key=f"{_PLACE}/everything")
    listed = found if everything else differing
    if not listed:
        st.caption("All applied settings and start properties are the same.")
        return
    st.dataframe(run_differences.rows(listed, runs), hide_index=True, key=f"{_PLACE}/differences")
