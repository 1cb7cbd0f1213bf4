"""A dialog with two answers about changed settings: what they would have done, and what follows from now on."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.rule import target
from steadynorm_contract.runs import RevisionState, RunDetail
from steadynorm_contract.series import ParameterView, Series
from steadynorm_contract.settings import Settings
from steadynorm_contract.words import counted
from steadynorm_dashboard.charts.colors import QUIET, RAW, STABILIZED
from steadynorm_dashboard.charts.figure import Figure, Trace, scatter
from steadynorm_dashboard.charts.panels import STEPS, Panel, layout
from steadynorm_dashboard.charts.replay import ROWS, Recorded, Replay, replay, throttled_share
from steadynorm_dashboard.components.data_table import data_table
from steadynorm_dashboard.components.live_chart import live_chart
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import escaping, numbers
from steadynorm_dashboard.panels import from_now_on, messages

_WORST = 3
_COLUMNS = ("raw_norm", "norm_mean", "norm_rms", "scale")
_NOT_REPLAYABLE = ("mode", "transfer", "clip_norm", "reset_generation")


def worst_parameters(parameters: Sequence[ParameterView]) -> list[str]:
    """The names of the parameters with the largest spike ratios since the run started."""
    ranked = sorted(parameters, key=lambda one: -(one.spike_ratio_max or 0.0))
    return [one.name for one in ranked[:_WORST]]


def replay_start(run: RunDetail, entries: Sequence[AuditEntry]) -> int:
    """The first step to replay: ROWS rows back, but after the last change of mode or reset, which rows do not show."""
    cuts = [
        entry.applied_step or 0
        for entry in entries
        if entry.state is RevisionState.APPLIED and any(name in entry.after for name in _NOT_REPLAYABLE)
    ]
    return max(0, run.step - ROWS * run.detail_every, *cuts)


@st.dialog("Preview", width="large")
def show(run: RunDetail, draft: Settings) -> None:
    """The dialog."""
    past, future = st.columns([1, 1], gap="medium")
    with future:
        st.subheader("From now on", anchor=False)
        from_now_on.panel(run, draft, key=f"{run.run_id}/preview/future")
    with past:
        st.subheader("Replayed on recorded steps", anchor=False)
        drawn = _replay(run, draft)
    if drawn:
        live_chart(
            preview_figure(drawn),
            key=f"{run.run_id}/preview/chart",
            name="Recorded norms, and those with this change",
        )


def _replay(run: RunDetail, draft: Settings) -> list[tuple[str, Recorded, Replay]]:
    was = run.applied.settings
    parameters, error = queries.fetch(
        f"{run.run_id}/parameters", lambda client: client.parameters(run.run_id), share="newest"
    )
    audit, _ = queries.fetch(f"{run.run_id}/audit", lambda client: client.audit(run.run_id))
    if parameters is None or audit is None:
        messages.show_error(error)
        return []
    names, start = worst_parameters(parameters.parameters), replay_start(run, audit.entries)
    columns = ["raw_norm", *(f"{column}/{name}" for name in names for column in _COLUMNS)]
    answer, error = queries.fetch(
        f"{run.run_id}/preview", lambda client: client.series(run.run_id, columns, start=start, points=10_000)
    )
    if answer is None:
        messages.show_error(error)
        return []
    drawn: list[tuple[str, Recorded, Replay]] = []
    for name in names:
        rows = _rows([answer.series[f"{column}/{name}"] for column in _COLUMNS], answer.series["raw_norm"])
        if done := replay(rows, was, draft):
            drawn.append((name, rows, done))
    if not drawn:
        st.info("Too few rows are recorded since the last change of mode or reset. Try again later.")
        return []
    steps = drawn[0][2].steps
    st.markdown(f"Had these settings been in force in steps {steps[0]:,} to {steps[-1]:,}, spikes in them included:")
    data_table(_summary(drawn, was.eps), key=f"{run.run_id}/preview/past", name="Replayed on recorded steps")
    st.caption(
        f"The rule, applied to the recorded norms of the {counted(len(drawn), 'parameter')} with the largest spikes. "
        "Recorded → with this change; a clip goes by the recorded total norm. The training itself would also have "
        "taken another course, and lr_scale has no effect on norms."
    )
    return drawn


def _rows(series: Sequence[Series], totals: Series) -> Recorded:
    norm, mean, rms, scale = series
    last = slice(-ROWS, None)
    known = dict(zip(totals.step, totals.mean, strict=True))
    return Recorded(
        norm.step[last], norm.mean[last], mean.mean[last], rms.mean[last], scale.mean[last],
        [known.get(step) for step in norm.step[last]],
    )  # fmt: skip


def _summary(drawn: Sequence[tuple[str, Recorded, Replay]], eps: float) -> list[dict[str, object]]:
    table = []
    for name, rows, done in drawn:
        happened = [
            None if mean is None or rms is None else target(mean, rms, eps)
            for mean, rms in zip(rows.means, rows.rms, strict=True)
        ]
        before, after = throttled_share(happened), throttled_share(done.targets)
        lowest = min((value for value in happened if value is not None), default=None)
        tallest = max((value for value in rows.stabilized if value is not None), default=None)
        would = max((value for value in done.stabilized if value is not None), default=None)
        table.append(
            {
                "parameter": escaping.visible(name, 200),
                "rows": len(done.steps),
                "throttled": f"{before:.0%} → {after:.0%}",
                "smallest target": f"{numbers.number(lowest, 3)} → {numbers.number(min(done.targets), 3)}",
                "largest norm seen": f"{numbers.number(tallest, 3)} → {numbers.number(would, 3)}",
            }
        )
    return table


def preview_figure(drawn: Sequence[tuple[str, Recorded, Replay]]) -> Figure:
    """A panel per parameter: the raw norm, the norm that the optimizer saw, and the norm it would have seen."""
    traces: list[Trace] = []
    share = 1.0 / len(drawn)
    stacked = [
        Panel.of(1 - share * at, 1 - share * (at - 1) - 0.09, "raw_norm", f"<b>{escaping.plotly(name, 80)}</b> L2 norm")
        for at, (name, _, _) in enumerate(drawn, 1)
    ]
    for at, (_, rows, done) in enumerate(drawn, 1):
        lines = (
            ("raw norm", rows.steps, rows.norms, RAW, "dot"),
            ("the optimizer saw", rows.steps, rows.stabilized, QUIET, "solid"),
            ("it would have seen", done.steps, done.stabilized, STABILIZED, "solid"),
        )
        for label, steps, values, color, dash in lines:
            traces.append(
                scatter(
                    x=list(steps),
                    y=[value or None for value in values],
                    name=label,
                    legendgroup=label,
                    showlegend=at == 1,
                    yaxis="y" if at == 1 else f"y{at}",
                    mode="lines",
                    line={"color": color, "width": 1.5, "dash": dash},
                    hovertemplate="%{y:.4g}",
                )
            )
    return Figure(traces, layout(stacked, STEPS.layout(), height=120 + 170 * len(drawn), revision="preview"))
