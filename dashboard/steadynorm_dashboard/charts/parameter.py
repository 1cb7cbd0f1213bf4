"""One parameter's figures: norm, target, spike ratio and scale over the steps, and the distribution of its norms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.series import Series
from steadynorm_contract.signals import signal
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts.axis import Axis
from steadynorm_dashboard.charts.colors import MEAN, QUIET, RAW, RMS, TARGET
from steadynorm_dashboard.charts.figure import Figure, Trace
from steadynorm_dashboard.charts.panels import STEPS, Panel, band, change_lines, layout, line, with_steps_on_top
from steadynorm_dashboard.charts.view import AS_RECORDED, View

COLUMNS = ("raw_norm", "norm_mean", "norm_rms", "scale", "spike_ratio", "target")
"""The series of a parameter, each called COLUMN/NAME on the server."""

PANELS = (
    Panel.of(0.635, 1.0, "raw_norm", "<b>gradient norm</b> L2 of this tensor"),
    Panel.of(0.40, 0.56, "target"),
    Panel.of(0.20, 0.34, "spike_ratio"),
    Panel.of(0.0, 0.14, "scale"),
)
_HEIGHT_PX = 740
_BINS = 40


def parameter_figure(
    series: Mapping[str, Series],
    audit: Sequence[AuditEntry],
    *,
    revision: str,
    x_axis: Axis = STEPS,
    view: View = AS_RECORDED,
) -> Figure | None:
    """Four panels over `x_axis`; None before the first recorded row. `series`: by column."""
    norms = series.get("raw_norm")
    if norms is None or not norms.step:
        return None
    first, last = norms.step[0], norms.step[-1] + norms.count[-1] - 1
    style: dict[str, Any] = {"x_axis": x_axis, "view": view}
    traces = [
        *band(series, "raw_norm", RAW, "y", legend=True, **style),
        *line(series, "norm_mean", MEAN, "y", legend=True, **style),
        *line(series, "norm_rms", RMS, "y", legend=True, **style),
        *line(series, "target", TARGET, "y2", **style),
        *line(series, "spike_ratio", RAW, "y3", **style),
        *line(series, "scale", QUIET, "y4", **style),
    ]
    shapes, notes = change_lines(markers.changes(audit, first, last), first, last, x_axis)
    figure = Figure(
        traces,
        layout(
            PANELS,
            x_axis.layout(first, last),
            height=_HEIGHT_PX,
            revision=revision,
            shapes=shapes,
            notes=notes,
            view=view,
        ),
    )
    return with_steps_on_top(figure)


def histogram(norms: Series) -> Figure | None:
    """A histogram of this tensor's norms on log axes; None with fewer than two different norms."""
    seen = [
        (math.log10(mean), count)
        for mean, count in zip(norms.mean, norms.count, strict=True)
        if mean is not None and mean > 0
    ]
    if len({value for value, _ in seen}) < 2:
        return None
    low, high = min(value for value, _ in seen), max(value for value, _ in seen)
    width = (high - low) / _BINS
    counts = [0] * _BINS
    for value, count in seen:
        counts[min(_BINS - 1, int((value - low) / width))] += count
    edges = [10 ** (low + width * at) for at in range(_BINS + 1)]
    bars: Trace = {
        "type": "bar",
        "x": [low + width * (at + 0.5) for at in range(_BINS)],
        "y": counts,
        "width": [width * 0.92] * _BINS,
        "marker": {"color": RAW},
        "text": [f"{below:.3g} to {above:.3g}" for below, above in pairwise(edges)],
        "textposition": "none",
        "hovertemplate": "norm %{text}: %{y:,d} steps<extra></extra>",
    }
    ticks = range(math.floor(low), math.ceil(high) + 1)
    return Figure(
        [bars],
        {
            "height": 260,
            "margin": {"l": 60, "r": 12, "t": 8, "b": 44},
            "xaxis": {
                "title": {"text": f"{signal('raw_norm/').title} ({signal('raw_norm/').subtitle}, log scale)"},
                "tickvals": list(ticks),
                "ticktext": [f"10<sup>{power}</sup>" for power in ticks],
                "zeroline": False,
            },
            # On a linear axis one spike among thousands of calm steps would be invisible.
            "yaxis": {"title": {"text": "recorded steps (log scale)"}, "type": "log", "nticks": 4, "zeroline": False},
            "showlegend": False,
        },
    )
