"""Several runs in one figure: loss, norms, smallest target and largest spike ratio; a color and a dash for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steadynorm_contract.series import Series
from steadynorm_dashboard.charts.axis import Axis, unit_of
from steadynorm_dashboard.charts.colors import COMPARED_BAND, LINE_STYLES
from steadynorm_dashboard.charts.figure import Figure, Trace
from steadynorm_dashboard.charts.panels import Panel, band, layout, line, with_steps_on_top
from steadynorm_dashboard.charts.view import AS_RECORDED, View
from steadynorm_dashboard.formatting import escaping

COMPARED_SERIES = ("loss", "raw_norm", "stabilized_norm", "target_min", "spike_ratio_max")
"""The series that the figure is drawn from."""

MAX_RUNS = len(LINE_STYLES)
"""Runs that can be distinguished in one figure."""

PANELS = (
    Panel.of(0.815, 1.0, "loss"),
    Panel.of(0.59, 0.755, "raw_norm"),
    Panel.of(0.38, 0.545, "stabilized_norm"),
    Panel.of(0.19, 0.335, "target_min"),
    Panel.of(0.0, 0.145, "spike_ratio_max"),
)
_HEIGHT_PX = 900
_POINTS = 4000
_POINTS_PER_BUCKET = 11  # three bands of three, or three lines and their averages; two lines


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One run: its label, which is not escaped, when it started (Unix seconds), and its series."""

    label: str
    started: float
    series: Mapping[str, Series]


def buckets(runs: int) -> int:
    """Points to request of each series, so that the figure stays quick to draw."""
    return max(50, min(150, _POINTS // (_POINTS_PER_BUCKET * max(1, runs))))


def unit(runs: Sequence[ComparedRun]) -> tuple[str, float]:
    """The unit of elapsed time that suits all of them."""
    return unit_of(
        max((one.time[-1] - run.started for run in runs for one in run.series.values() if one.time), default=0.0)
    )


def comparison_figure(
    runs: Sequence[ComparedRun], x_axes: Sequence[Axis], *, revision: str, view: View = AS_RECORDED
) -> Figure | None:
    """Five panels with one x axis per run; None where no run has a step yet. A shorter run's lines end earlier."""
    traces: list[Trace] = []
    for run, x_axis, (color, dash) in zip(runs, x_axes, LINE_STYLES, strict=False):
        name = escaping.plotly(run.label, 60)
        style: dict[str, Any] = {"label": name, "group": run.label, "dash": dash, "x_axis": x_axis, "view": view}
        traces += [
            *band(run.series, "loss", color, "y", legend=True, opacity=COMPARED_BAND, **style),
            *band(run.series, "raw_norm", color, "y2", opacity=COMPARED_BAND, **style),
            *band(run.series, "stabilized_norm", color, "y3", opacity=COMPARED_BAND, **style),
            *line(run.series, "target_min", color, "y4", **style),
            *line(run.series, "spike_ratio_max", color, "y5", **style),
        ]
    if not traces:
        return None
    first = next(axis for run, axis in zip(runs, x_axes, strict=True) if any(one.step for one in run.series.values()))
    figure = Figure(traces, layout(PANELS, first.layout(), height=_HEIGHT_PX, revision=revision, view=view))
    # Names may be long: they get rows of their own above the first panel's title.
    figure.layout["margin"]["t"] = 40 + 20 * -(-len(runs) // 3)
    figure.layout["legend"] |= {"x": 0, "xanchor": "left", "y": 1.03}
    return with_steps_on_top(figure)
