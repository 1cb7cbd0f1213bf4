"""A run's figure: loss, norms, smallest target, largest spike ratio, learning rate and speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.events import Event
from steadynorm_contract.notes import Note
from steadynorm_contract.series import Series
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts.axis import Axis
from steadynorm_dashboard.charts.colors import BAD, LOSS, QUIET, RAW, STABILIZED, TARGET
from steadynorm_dashboard.charts.figure import Figure, scatter
from steadynorm_dashboard.charts.panels import (
    LEFT_PX,
    STEPS,
    Panel,
    band,
    change_lines,
    layout,
    line,
    pinned_first,
    with_steps_on_top,
)
from steadynorm_dashboard.charts.view import AS_RECORDED, View
from steadynorm_dashboard.formatting import escaping

RUN_SERIES = (
    *("loss", "raw_norm", "stabilized_norm", "target_min", "learning_rate", "spike_ratio_max"),
    *("nonfinite", "loss_nonfinite"),
)
"""The series that the figure is drawn from."""

RUN_BUCKETS = 140
"""Points requested of each series. A bucket's band shows its smallest and largest value, so no spike is lost."""

PANELS = (
    Panel.of(0.845, 1.0, "loss"),
    Panel.of(0.60, 0.79, "raw_norm", "<b>gradient norm</b> L2 over all parameters"),
    Panel.of(0.43, 0.555, "target_min"),
    Panel.of(0.28, 0.385, "spike_ratio_max"),
    Panel.of(0.145, 0.235, "learning_rate", nticks=3, exponentformat="e"),
    Panel.of(0.0, 0.1, "steps_per_s", nticks=3),
)
_HEIGHT_PX = 940


def run_figure(
    series: Mapping[str, Series],
    audit: Sequence[AuditEntry],
    events: Sequence[Event],
    *,
    revision: str,
    x_axis: Axis = STEPS,
    view: View = AS_RECORDED,
    left_px: int = LEFT_PX,
    notes: Sequence[Note] = (),
) -> Figure | None:
    """The six panels over `x_axis`. None before the first step.

    revision: zoom and hidden traces persist while it stays the same. left_px: see `panels.layout`.
    """
    recorded = [one for one in series.values() if one.step]
    if not recorded:
        return None
    first = min(one.step[0] for one in recorded)
    last = max(one.step[-1] + one.count[-1] - 1 for one in recorded)
    series = {**series, "steps_per_s": _speed(recorded[0])}
    panels = pinned_first(PANELS, view.pinned)
    axes = {one.signal.name: f"y{at}" if at > 1 else "y" for at, one in enumerate(panels, 1)}
    norm = axes["raw_norm"]
    style: dict[str, Any] = {"x_axis": x_axis, "view": view}
    nonfinite = markers.nonfinite(series, events)
    traces = [
        *band(series, "loss", LOSS, axes["loss"], **style),
        *band(series, "raw_norm", RAW, norm, legend=True, **style),
        *band(series, "stabilized_norm", STABILIZED, norm, legend=True, **style),
        *line(series, "target_min", TARGET, axes["target_min"], **style),
        *line(series, "spike_ratio_max", RAW, axes["spike_ratio_max"], **style),
        *line(series, "learning_rate", QUIET, axes["learning_rate"], **style),
        *line(series, "steps_per_s", LOSS, axes["steps_per_s"], label="steps/s", **style),
        *_note_marks(series, notes, x_axis, norm),  # below those of spikes
        _points(markers.spikes(series, events), "spike", RAW, "triangle-down", x_axis, norm),
        _points(nonfinite, "non-finite", BAD, "x", x_axis, norm),
        *_small_target_marks(series, events, x_axis, axes["target_min"]),
        _points(markers.nonfinite_losses(series), "non-finite loss", BAD, "x", x_axis, axes["loss"])
        | {"showlegend": not nonfinite},
    ]
    shapes, labels = change_lines(markers.changes(audit, first, last), first, last, x_axis)
    figure = Figure(
        traces,
        layout(
            panels,
            x_axis.layout(first, last),
            height=_HEIGHT_PX,
            revision=revision,
            legend_above=list(axes).index("raw_norm"),
            shapes=shapes,
            view=view,
            left_px=left_px,
            notes=labels,
        ),
    )
    return with_steps_on_top(figure)


def _speed(series: Series) -> Series:
    """Steps per second between the starts of neighboring buckets; None where the clock stopped or went back."""
    steps, times = series.step, series.time
    mean: list[float | None] = [
        (after - before) / (end - start) if end > start else None
        for before, after, start, end in zip(steps, steps[1:], times, times[1:], strict=False)
    ]
    return Series(steps[: len(mean)], series.count[: len(mean)], mean, mean, mean)


def _note_marks(series: Mapping[str, Series], notes: Sequence[Note], x_axis: Axis, y_axis: str) -> list[dict[str, Any]]:
    marked = markers.notes(series, notes)
    return [_points(marked, "note", QUIET, "diamond", x_axis, y_axis)] if marked else []


def _small_target_marks(
    series: Mapping[str, Series], events: Sequence[Event], x_axis: Axis, y_axis: str
) -> list[dict[str, Any]]:
    marked = markers.small_targets(series, events)
    return [_points(marked, "small target", TARGET, "triangle-down", x_axis, y_axis)] if marked else []


def _points(
    at: Sequence[markers.StepMarker], name: str, color: str, symbol: str, x_axis: Axis, y_axis: str
) -> dict[str, Any]:
    return scatter(
        x=x_axis.xs(each.step for each in at),
        y=[each.height for each in at],
        name=name,
        yaxis=y_axis,
        mode="markers",
        marker={"color": color, "symbol": symbol, "size": 10, "line": {"width": 1, "color": "white"}},
        text=[escaping.plotly(each.text + (" (click)" if each.key else ""), 200) for each in at],
        customdata=[each.key for each in at],
        hovertemplate="%{text}<extra></extra>",
    )
