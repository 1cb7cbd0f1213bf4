"""One parameter's figures: norm, target, scale and spike ratio over the step, and how its norms are spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.rule import SPIKE_RATIO, THROTTLED_TARGET
from steadynorm_contract.series import Series
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts.axis import Axis
from steadynorm_dashboard.charts.colors import MEAN, QUIET, RAW, RMS, TARGET
from steadynorm_dashboard.charts.figure import Figure, Trace
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
from steadynorm_dashboard.charts.run import MAX_MARKS

__all__ = ["COLUMNS", "histogram", "parameter_figure"]

COLUMNS = ("raw_norm", "norm_mean", "norm_rms", "scale", "spike_ratio", "target")
"""The series of a parameter, each called COLUMN/NAME on the server."""

_PANELS = (
    Panel(0.62, 1.0, "<b>gradient norm</b> L2 of this tensor, log scale", LOG),
    Panel(
        0.40,
        0.56,
        f"<b>target</b> mean norm / RMS norm, shaded: throttled (below {THROTTLED_TARGET})",
        {"rangemode": "tozero"},
    ),
    Panel(
        0.20, 0.34, f"<b>spike ratio</b> norm / RMS norm before it, log scale, line: spike ({SPIKE_RATIO:g})", SHORT_LOG
    ),
    Panel(0.0, 0.14, "<b>scale</b> factor on the gradient, log scale", SHORT_LOG),
)
_HEIGHT_PX = 740
_BINS = 40


def parameter_figure(
    series: Mapping[str, Series], audit: Sequence[AuditEntry], *, revision: str, along: Axis = STEPS
) -> Figure | None:
    """Four panels over `along`; None before the first recorded row. `series`: by column."""
    norms = series.get("raw_norm")
    if norms is None or not norms.step:
        return None
    first, last = norms.step[0], norms.step[-1] + norms.count[-1] - 1
    means, rms = series.get("norm_mean"), series.get("norm_rms")
    traces = [
        *band(norms, "norm", RAW, "y", positive=True, legend=True, along=along),
        *line(means, "mean (gamma1)", MEAN, "y", of="mean", positive=True, legend=True, along=along),
        *line(rms, "RMS (gamma2)", RMS, "y", of="mean", positive=True, legend=True, along=along),
        *line(series.get("target"), "target", TARGET, "y2", of="min", along=along),
        *line(series.get("spike_ratio"), "spike ratio", RAW, "y3", of="max", positive=True, along=along),
        *line(series.get("scale"), "scale", QUIET, "y4", of="mean", positive=True, along=along),
    ]
    shapes, notes = change_lines(markers.changes(audit, first, last)[-MAX_MARKS:], first, last, along)
    return Figure(
        traces,
        layout(
            _PANELS,
            along.layout(first, last),
            height=_HEIGHT_PX,
            revision=revision,
            shapes=[throttled_zone("y2"), spike_line("y3"), *shapes],
            notes=notes,
        ),
    )


def histogram(norms: Series) -> Figure | None:
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
                "title": {"text": "gradient norm (L2, log scale)"},
                "tickvals": list(ticks),
                "ticktext": [f"10<sup>{power}</sup>" for power in ticks],
                "zeroline": False,
            },
            # One spike among thousands of calm steps would be no bar at all on a linear axis.
            "yaxis": {"title": {"text": "recorded steps (log scale)"}, "type": "log", "nticks": 4, "zeroline": False},
            "showlegend": False,
        },
    )
