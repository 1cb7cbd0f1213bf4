"""Runs over each other: loss, norms, smallest target and spike ratio, a colour and a dash a run. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steadynorm_contract.rule import SPIKE_RATIO, THROTTLED_TARGET
from steadynorm_contract.series import Series
from steadynorm_dashboard.charts.axis import Axis, unit_of
from steadynorm_dashboard.charts.colors import LOOKS
from steadynorm_dashboard.charts.figure import Figure, Trace
from steadynorm_dashboard.charts.panels import LOG, SHORT_LOG, Panel, band, layout, line, spike_line, throttled_zone
from steadynorm_dashboard.formatting import escaping

__all__ = ["MOST", "NAMES", "Compared", "buckets", "comparison_figure", "unit"]

NAMES = ("loss", "raw_norm", "stabilized_norm", "target_min", "spike_ratio_max")
"""The series that the figure is drawn from."""

MOST = len(LOOKS)
"""Runs that can be told apart."""

_PANELS = (
    Panel(0.80, 1.0, "<b>loss</b> as logged"),
    Panel(0.59, 0.755, "<b>raw norm</b> L2 over all parameters, log scale", LOG),
    Panel(0.38, 0.545, "<b>stabilized norm</b> L2 over all parameters, log scale", LOG),
    Panel(
        0.19,
        0.335,
        f"<b>smallest target</b> mean norm / RMS norm, shaded: throttled (below {THROTTLED_TARGET})",
        {"rangemode": "tozero"},
    ),
    Panel(
        0.0,
        0.145,
        f"<b>largest spike ratio</b> norm / RMS norm before it, log scale, line: spike ({SPIKE_RATIO:g})",
        SHORT_LOG,
    ),
)
_HEIGHT_PX = 900
_OPACITY = 0.14  # several bands lie over each other
_POINTS = 4000
_POINTS_A_BUCKET = 11  # three bands of three, two lines


@dataclass(frozen=True, slots=True)
class Compared:
    """One run: its label, which is not escaped, when it began (Unix seconds), and its series."""

    label: str
    began: float
    series: Mapping[str, Series]


def buckets(runs: int) -> int:
    """Points to ask of each series, so that the figure stays quick to draw."""
    return max(50, min(150, _POINTS // (_POINTS_A_BUCKET * max(1, runs))))


def unit(runs: Sequence[Compared]) -> tuple[str, float]:
    """In which elapsed time is read best, for all of them."""
    return unit_of(
        max((one.time[-1] - run.began for run in runs for one in run.series.values() if one.time), default=0.0)
    )


def comparison_figure(runs: Sequence[Compared], along: Sequence[Axis], *, revision: str) -> Figure | None:
    """Five panels; None where no run has a step yet. A run that is shorter ends earlier. along: an axis each."""
    traces: list[Trace] = []
    for run, axis, (color, dash) in zip(runs, along, LOOKS, strict=False):
        name = escaping.plotly(run.label, 60)
        own: dict[str, Any] = {"group": run.label, "dash": dash, "along": axis}
        wide = own | {"opacity": _OPACITY}
        traces += [
            *band(run.series.get("loss"), name, color, "y", legend=True, **wide),
            *band(run.series.get("raw_norm"), name, color, "y2", positive=True, **wide),
            *band(run.series.get("stabilized_norm"), name, color, "y3", positive=True, **wide),
            *line(run.series.get("target_min"), name, color, "y4", of="min", **own),
            *line(run.series.get("spike_ratio_max"), name, color, "y5", of="max", positive=True, **own),
        ]
    if not traces:
        return None
    placed = next(axis for run, axis in zip(runs, along, strict=True) if any(one.step for one in run.series.values()))
    look = layout(
        _PANELS,
        placed.layout(),
        height=_HEIGHT_PX,
        revision=revision,
        shapes=[throttled_zone("y4"), spike_line("y5")],
    )
    # Names may be long: rows of their own, above the first panel's title. The hover tells of one panel at a time.
    look["margin"]["t"] = 40 + 20 * -(-len(runs) // 3)
    look["legend"] |= {"x": 0, "xanchor": "left", "y": 1.03}
    look["hoversubplots"] = "overlaying"
    return Figure(traces, look)
