"""Several runs in one figure, live, by step or by time, and a table of how they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from steadynorm_contract.client import NotFound
from steadynorm_contract.runs import RunDetail
from steadynorm_contract.scalars import logged_signal
from steadynorm_contract.series import Series
from steadynorm_contract.signals import Signal, signal
from steadynorm_contract.words import counted
from steadynorm_dashboard import navigation
from steadynorm_dashboard.charts import comparison
from steadynorm_dashboard.charts.comparison import ComparedRun
from steadynorm_dashboard.components.data_table import data_table
from steadynorm_dashboard.components.live_chart import live_chart
from steadynorm_dashboard.components.live_region import live_region
from steadynorm_dashboard.data import queries, view
from steadynorm_dashboard.formatting import escaping, numbers, run_differences, run_summaries, status
from steadynorm_dashboard.panels import (
    chart_controls,
    chart_view,
    messages,
    page_header,
    quiet,
    run_header,
    run_view,
    scalar_charts,
)

_PLACE = "compare"
SIGNAL, BASELINE = "signal", "baseline"
"""Ends of the keys under which the session state has which values are compared, and with which run's."""


def render(run_ids: str) -> None:
    """The page. run_ids: separated by commas."""
    given = run_ids.split(",")
    view.open_page(
        {"compare": run_ids},
        (
            *run_view.chart_parts(_PLACE, comparison.PANELS),
            run_view.zoom_part(_PLACE, given),
            run_view.order_part(f"{_PLACE}/values"),
            view.Part("scalars", None, run_view.names, list, f"{_PLACE}/{scalar_charts.CHOSEN}"),
            view.Part("signal", "loss", view.one_of(comparison.COMPARED_SERIES), state=f"{_PLACE}/{SIGNAL}"),
            view.Part(
                "baseline",
                given[0],
                lambda texts: texts[0] if texts[0] in given else None,
                state=f"{_PLACE}/{BASELINE}",
            ),
        ),
    )
    page_header.bar(back=True)
    st.title("Comparing runs", anchor=False)
    chosen = _choose(run_ids)
    if len(chosen) < 2:
        st.info(
            "Choose two or more runs above, or mark them in the runs overview.", icon=":material/stacked_line_chart:"
        )
    if chosen:
        quiet.runs(*chosen)
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
    live_region(" ".join(map(run_header.announcement, found)))
    _headers(found)
    _summaries(found)
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
    else:
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
                f"step {run.step:,} · loss {numbers.number(run.loss)} · "
                f"{counted(run.counters.spikes, 'spike')} (parameter, step) · "
                f"{escaping.markdown(status.settings_words(run))}"
            )


def _chart(runs: Sequence[RunDetail]) -> None:
    viewport = chart_controls.controls(
        _PLACE, max(run.step for run in runs), comparison.PANELS, pause=False, bands=False
    )
    view.write()
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
        messages.show_error(error)
        compared.append(ComparedRun(label, run.started, answer.series if answer else {}))
    unit = comparison.unit(compared)
    axes = {
        run.run_id: chart_controls.axis(_PLACE, viewport, each.series.values(), each.started, of=run.run_id, unit=unit)
        for run, each in zip(runs, compared, strict=True)
    }
    ids = "/".join(axes)
    figure = comparison.comparison_figure(
        compared,
        list(axes.values()),
        revision=f"{_PLACE}/{ids}/{viewport.revision}/{unit[0]}",
        view=chart_view.current(_PLACE, comparison.PANELS, bands=False),
    )
    if figure is None:
        st.info("No steps are recorded in this range yet.", icon=":material/hourglass_empty:")
        return
    gesture = live_chart(figure, key=f"{_PLACE}/chart", name="Charts of the compared runs", zooms=True)
    chart_controls.apply_zoom(_PLACE, gesture, axes)
    scalar_charts.compared(_PLACE, runs, [each.label for each in compared], list(axes.values()))


def _summaries(runs: Sequence[RunDetail]) -> None:
    """A table of one signal, with the differences to a run."""
    labels = dict(zip((run.run_id for run in runs), run_differences.labels(runs), strict=True))
    view.hold("signal", "baseline")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.header("Values", anchor=False, width="content")
        name = st.selectbox(
            "Signal",
            [*comparison.COMPARED_SERIES, *_logged(runs)],
            format_func=lambda name: escaping.visible(_about(runs, name).title, 60),
            key=f"{_PLACE}/{SIGNAL}",
            label_visibility="collapsed",
            width=200,
        )
        baseline = st.selectbox(
            "Baseline",
            list(labels),
            format_func=lambda run_id: f"baseline: {escaping.visible(labels[run_id], 60)}",
            key=f"{_PLACE}/{BASELINE}",
            label_visibility="collapsed",
            width=320,
        )
    found = [
        run_summaries.summary(
            labels[run.run_id],
            _about(runs, name),
            _newest(run, name),
            _series(run, "whole", name, start=None, points=1).get(name),
            _series(run, "newest", name, start=max(0, run.step - run_summaries.NEWEST_STEPS + 1), points=100).get(name),
        )
        for run in runs
    ]
    rows = run_summaries.rows(found, list(labels).index(baseline))
    data_table(
        rows,
        key=f"{_PLACE}/values",
        name=f"{escaping.visible(_about(runs, name).title, 60)} of the compared runs",
        links=[{"run": run.run_id} for run in runs],
        sortable=list(rows[0]),
    )


def _logged(runs: Sequence[RunDetail]) -> list[str]:
    """Scalars that any of the runs logs under names of its own."""
    return list(dict.fromkeys(each.name for run in runs for each in run.scalars))


def _about(runs: Sequence[RunDetail], name: str) -> Signal:
    if name in comparison.COMPARED_SERIES:
        return signal(name)
    known = next((each for run in runs for each in run.scalars if each.name == name), None)
    return logged_signal(name, known.unit, known.sentence) if known else logged_signal(name)


def _newest(run: RunDetail, name: str) -> float | None:
    if name in comparison.COMPARED_SERIES:
        value: float | None = getattr(run, name)
        return value
    return next((each.value for each in run.scalars if each.name == name), None)


def _series(run: RunDetail, what: str, name: str, *, start: int | None, points: int) -> Mapping[str, Series]:
    """All compared signals of a run, or the logged scalar `name`, from the step `start` on."""
    own = name not in comparison.COMPARED_SERIES
    if own and all(each.name != name for each in run.scalars):
        return {}
    names, what = ([name], f"{what}/{name}") if own else (comparison.COMPARED_SERIES, what)
    answer, _ = queries.fetch(
        f"{_PLACE}/{run.run_id}/{what}",
        lambda client: client.series(run.run_id, names, start=start, points=points),
        share=what,
    )
    return answer.series if answer else {}


def _differences(runs: Sequence[RunDetail]) -> None:
    audits = {}
    for run in runs:
        answer, _ = queries.fetch(f"{run.run_id}/audit", lambda client, run=run: client.audit(run.run_id))  # type: ignore[misc]  # bound now
        audits[run.run_id] = answer.entries if answer else []
    started_with = {}
    for run in runs:
        known, _ = queries.fetch(
            f"{run.run_id}/configuration",
            lambda client, run=run: client.configuration(run.run_id),  # type: ignore[misc]  # bound now
            share="newest",
            immutable=str(run.incarnation),
        )
        if known is not None:
            started_with[run.run_id] = known
    found = run_differences.differences(runs, audits, started_with)
    differing = [one for one in found if one.differs]
    head, switch = st.columns([3, 1], vertical_alignment="center")
    head.header(f"Differences: {len(differing)} of {len(found)} settings and properties", anchor=False)
    everything = switch.toggle("Show equal values too", key=f"{_PLACE}/everything")
    listed = found if everything else differing
    if not listed:
        st.caption("All applied settings and start properties are the same.")
        return
    data_table(run_differences.rows(listed, runs), key=f"{_PLACE}/differences", name="Differences")
