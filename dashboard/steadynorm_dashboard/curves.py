"""One parameter's figures: norm, target, scale and spike ratio over the step, and how its norms are spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from steadynorm_contract.rule import SPIKE_RATIO, THROTTLED_TARGET
from steadynorm_contract.views import AuditEntry, Series
from steadynorm_dashboard import charts, marks

__all__ = ["COLUMNS", "histogram", "parameter_figure"]

COLUMNS = ("raw_norm", "norm_mean", "norm_rms", "scale", "spike_ratio", "target")
"""The series of a parameter, each called COLUMN/NAME on the server."""

_PANELS = {
    "norm": (0.62, 1.0, "<b>gradient norm</b> L2 of this tensor, log scale"),
    "target": (0.40, 0.56, f"<b>target</b> mean norm / RMS norm, shaded: throttled (below {THROTTLED_TARGET})"),
    "ratio": (0.20, 0.34, f"<b>spike ratio</b> norm / RMS norm before it, log scale, line: spike ({SPIKE_RATIO:g})"),
    "scale": (0.0, 0.14, "<b>scale</b> factor on the gradient, log scale"),
}
_HEIGHT_PX = 740
_BINS = 40
MEAN, RMS = "#009e73", "#1b85c4"


def parameter_figure(series: Mapping[str, Series], audit: Sequence[AuditEntry], *, revision: str) -> go.Figure | None:
    """Four panels over one axis of steps; None before the first recorded row. `series`: by column."""
    norms = series.get("raw_norm")
    if norms is None or not norms.step:
        return None
    first, last = norms.step[0], norms.step[-1] + norms.count[-1] - 1
    traces = [
        *charts.curve(norms, "norm", charts.RAW, "y", positive=True, legend=True),
        *charts.line(series.get("norm_mean"), "mean (gamma1)", MEAN, "y", of="mean", positive=True, legend=True),
        *charts.line(series.get("norm_rms"), "RMS (gamma2)", RMS, "y", of="mean", positive=True, legend=True),
        *charts.line(series.get("target"), "target", charts.TARGET, "y2", of="min"),
        *charts.line(series.get("spike_ratio"), "spike ratio", charts.RAW, "y3", of="max", positive=True),
        *charts.line(series.get("scale"), "scale", charts.QUIET, "y4", of="mean", positive=True),
    ]
    shapes, notes = charts.change_lines(marks.changes(audit, first, last)[-charts.MAX_MARKS :], first, last)
    figure = go.Figure(data=traces)
    log = {"type": "log", "exponentformat": "power", "dtick": 1}
    figure.update_layout(
        height=_HEIGHT_PX,
        margin={"l": 50, "r": 12, "t": 46, "b": 44},
        hovermode="x unified",
        hoversubplots="axis",
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"},
        uirevision=revision,
        dragmode="zoom",
        shapes=[charts.throttled_zone("y2"), _spike_line(), *shapes],
        annotations=[*charts.titles(_PANELS.values()), *notes],
        xaxis={
            "title": {"text": "optimizer step"},
            "anchor": "y4",
            "autorangeoptions": {"clipmin": first, "clipmax": max(last, first + 1)},
            "tickformat": ",d",
            "zeroline": False,
            "showspikes": False,
            "unifiedhovertitle": {"text": "step %{x:,d}"},
        },
        yaxis=_axis("norm") | log,
        yaxis2=_axis("target") | {"rangemode": "tozero"},
        yaxis3=_axis("ratio") | log,
        yaxis4=_axis("scale") | log,
    )
    return figure


def histogram(norms: Series) -> go.Figure | None:
    """How often this tensor's norm was how large, on a log axis; None with fewer than two different norms."""
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
    figure = go.Figure(
        go.Bar(
            x=[low + width * (at + 0.5) for at in range(_BINS)],
            y=counts,
            width=[width * 0.92] * _BINS,
            marker={"color": charts.RAW},
            text=[f"{below:.3g} to {above:.3g}" for below, above in pairwise(edges)],
            textposition="none",
            hovertemplate="norm %{text}: %{y:,d} steps<extra></extra>",
        )
    )
    ticks = range(math.floor(low), math.ceil(high) + 1)
    figure.update_layout(
        height=260,
        margin={"l": 60, "r": 12, "t": 8, "b": 44},
        xaxis={
            "title": {"text": "gradient norm (L2, log scale)"},
            "tickvals": list(ticks),
            "ticktext": [f"10<sup>{power}</sup>" for power in ticks],
            "zeroline": False,
        },
        # One spike among thousands of calm steps would be no bar at all on a linear axis.
        yaxis={"title": {"text": "recorded steps (log scale)"}, "type": "log", "nticks": 4, "zeroline": False},
        showlegend=False,
    )
    return figure


def _axis(panel: str) -> dict[str, Any]:
    low, high, _ = _PANELS[panel]
    return {"domain": [low, high], "zeroline": False, "automargin": False}


def _spike_line() -> dict[str, Any]:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": "y3",
        "y0": SPIKE_RATIO,
        "y1": SPIKE_RATIO,
        "line": {"color": charts.QUIET, "width": 1, "dash": "dash"},
    }
