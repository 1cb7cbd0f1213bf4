"""From the server's series to a run's figure: loss, norms, smallest target, spike ratio, learning rate and speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.events import Event
from steadynorm_contract.rule import SPIKE_RATIO, THROTTLED_TARGET
from steadynorm_contract.series import Series
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts.axis import Axis
from steadynorm_dashboard.charts.colors import BAD, LOSS, QUIET, RAW, STABILIZED, TARGET
from steadynorm_dashboard.charts.figure import Figure, scatter
from steadynorm_dashboard.charts.panels import (
    LOG,
    SHORT_LOG,
    STEPS,
    Panel,
    band,
    change_lines,
    layout,
    line,
    spike_line,
    throttled_zone,
)
from steadynorm_dashboard.formatting import escaping

__all__ = ["BUCKETS", "MAX_MARKS", "MAX_POINTS", "NAMES", "run_figure"]

NAMES = ("loss", "raw_norm", "stabilized_norm", "target_min", "learning_rate", "spike_ratio_max", "nonfinite")
"""The series that the figure is drawn from."""

MAX_POINTS = 2000
"""Of a whole figure: what a browser redraws every second without a stutter."""

BUCKETS = 140
"""Points asked of each series. A bucket's band keeps its smallest and largest value, so no spike is lost."""

MAX_MARKS = 40

_PANELS = (
    Panel(0.835, 1.0, "<b>loss</b> as logged"),
    Panel(0.60, 0.79, "<b>gradient norm</b> L2 over all parameters, log scale", LOG),
    Panel(
        0.43,
        0.555,
        f"<b>smallest target</b> mean norm / RMS norm, shaded: throttled (below {THROTTLED_TARGET})",
        {"rangemode": "tozero"},
    ),
    Panel(
        0.28,
        0.385,
        f"<b>largest spike ratio</b> norm / RMS norm before it, log scale, line: spike ({SPIKE_RATIO:g})",
        SHORT_LOG,
    ),
    Panel(0.145, 0.235, "<b>learning rate</b> per step", {"rangemode": "tozero", "nticks": 3, "exponentformat": "e"}),
    Panel(0.0, 0.1, "<b>speed</b> optimizer steps a second", {"rangemode": "tozero", "nticks": 3}),
)
_HEIGHT_PX = 940


def run_figure(
    series: Mapping[str, Series],
    audit: Sequence[AuditEntry],
    events: Sequence[Event],
    *,
    revision: str,
    along: Axis = STEPS,
) -> Figure | None:
    """The six panels over `along`. None before the first step.

    revision: zoom and hidden traces persist while it stays the same.
    """
    recorded = [one for one in series.values() if one.step]
    if not recorded:
        return None
    first = min(one.step[0] for one in recorded)
    last = max(one.step[-1] + one.count[-1] - 1 for one in recorded)
    traces = [
        *band(series.get("loss"), "loss", LOSS, "y", along=along),
        *band(series.get("raw_norm"), "raw norm", RAW, "y2", positive=True, legend=True, along=along),
        *band(
            series.get("stabilized_norm"), "stabilized norm", STABILIZED, "y2", positive=True, legend=True, along=along
        ),
        *line(series.get("target_min"), "smallest target", TARGET, "y3", of="min", along=along),
        *line(series.get("spike_ratio_max"), "spike ratio", RAW, "y4", of="max", positive=True, along=along),
        *line(series.get("learning_rate"), "learning rate", QUIET, "y5", of="mean", along=along),
        *line(_speed(recorded[0]), "steps/s", LOSS, "y6", of="mean", along=along),
        *_points(markers.spikes(series, events, MAX_MARKS), "spike", RAW, "triangle-down", along),
        *_points(markers.nonfinite(series, events, MAX_MARKS), "non-finite", BAD, "x", along),
    ]
    shapes, notes = change_lines(markers.changes(audit, first, last)[-MAX_MARKS:], first, last, along)
    return Figure(
        traces,
        layout(
            _PANELS,
            along.layout(first, last),
            height=_HEIGHT_PX,
            revision=revision,
            legend_above=1,
            shapes=[throttled_zone(), spike_line("y4"), *shapes],
            notes=notes,
        ),
    )


def _speed(series: Series) -> Series:
    """Steps a second from each bucket's begin to the next one's; none where the clock stood or went back."""
    steps, times = series.step, series.time
    mean: list[float | None] = [
        (after - before) / (end - begin) if end > begin else None
        for before, after, begin, end in zip(steps, steps[1:], times, times[1:], strict=False)
    ]
    return Series(steps[: len(mean)], series.count[: len(mean)], mean, mean, mean)


def _points(at: Sequence[markers.StepMark], name: str, color: str, symbol: str, along: Axis) -> list[Any]:
    return [
        scatter(
            x=along.xs(mark.step for mark in at),
            y=[mark.height for mark in at],
            name=name,
            yaxis="y2",
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": 10, "line": {"width": 1, "color": "white"}},
            text=[escaping.plotly(mark.words) for mark in at],
            customdata=[mark.key for mark in at],
            hovertemplate="%{text} (click)<extra></extra>",
        )
    ]
