"""From the server's series to one figure: four panels over one step axis.

One figure instead of four charts, so that zooming one panel zooms all. SVG traces only: without a GPU, WebGL is slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from steadynorm_contract.rule import THROTTLED_TARGET
from steadynorm_contract.views import AuditEntry, Event, Series
from steadynorm_dashboard import marks, text

__all__ = [
    *("BUCKETS", "LOSS", "MAX_MARKS", "MAX_POINTS", "NAMES", "QUIET", "RAW", "STABILIZED", "TARGET", "WINDOWS"),
    *("change_lines", "curve", "first_step", "line", "run_figure", "throttled_zone", "titles"),
]

NAMES = ("loss", "raw_norm", "stabilized_norm", "target_min", "learning_rate", "spike_ratio_max", "nonfinite")
"""The series that the figure is drawn from."""

MAX_POINTS = 2000
"""Of a whole figure: what a browser redraws every second or two without a stutter."""

BUCKETS = 170
"""Points asked of each series. A bucket's band keeps its smallest and largest value, so no spike is lost."""

MAX_MARKS = 40

WINDOWS: dict[str, int | None] = {"last 200": 200, "last 1k": 1_000, "last 10k": 10_000, "all steps": None}
"""Choices of the range selector, in steps."""

# Mid-bright, so that each stands out from a white page and from a dark one; apart for any kind of colour vision.
RAW = "#d55e00"
STABILIZED = "#1b85c4"
LOSS = "#009e73"
TARGET = "#b7649a"
QUIET = "#7b8794"

_PANELS = {
    "loss": (0.765, 1.0, "<b>loss</b> as logged"),
    "norm": (0.425, 0.705, "<b>gradient norm</b> L2 over all parameters, log scale"),
    "target": (
        0.175,
        0.365,
        f"<b>smallest target</b> mean norm / RMS norm, shaded: throttled (below {THROTTLED_TARGET})",
    ),
    "rate": (0.0, 0.115, "<b>learning rate</b> per step"),
}
"""From bottom and to top, in shares of the figure's height, and the axis title with its unit."""

_HEIGHT_PX = 780


def first_step(window: str, newest: int) -> int | None:
    """The first step to show; None: all."""
    length = WINDOWS[window]
    return None if length is None else max(0, newest - length + 1)


def run_figure(
    series: Mapping[str, Series],
    audit: Sequence[AuditEntry],
    events: Sequence[Event],
    *,
    revision: str,
) -> go.Figure | None:
    """Loss, total norms, smallest target and learning rate over the optimizer step. None before the first step.

    revision: zoom and hidden traces persist while it stays the same.
    """
    recorded = [one for one in series.values() if one.step]
    if not recorded:
        return None
    first = min(one.step[0] for one in recorded)
    last = max(one.step[-1] + one.count[-1] - 1 for one in recorded)

    traces = [
        *curve(series.get("loss"), "loss", LOSS, "y"),
        *curve(series.get("raw_norm"), "raw norm", RAW, "y2", positive=True, legend=True),
        *curve(series.get("stabilized_norm"), "stabilized norm", STABILIZED, "y2", positive=True, legend=True),
        *line(series.get("target_min"), "smallest target", TARGET, "y3", of="min"),
        *line(series.get("learning_rate"), "learning rate", QUIET, "y4", of="mean"),
        *_points(marks.spikes(series, events, MAX_MARKS), "spike", RAW, "triangle-down"),
        *_points(marks.nonfinite(series, MAX_MARKS), "non-finite", "#b3261e", "x"),
    ]
    applied = marks.changes(audit, first, last)[-MAX_MARKS:]
    shapes, annotations = change_lines(applied, first, last)
    figure = go.Figure(data=traces)
    figure.update_layout(
        height=_HEIGHT_PX,
        margin={"l": 50, "r": 12, "t": 46, "b": 44},
        hovermode="x unified",
        hoversubplots="axis",
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": _PANELS["norm"][1], "yanchor": "bottom"},
        uirevision=revision,
        dragmode="zoom",
        shapes=[throttled_zone(), *shapes],
        annotations=[*titles(_PANELS.values()), *annotations],
        xaxis={
            "title": {"text": "optimizer step"},
            "anchor": "y4",
            # Not `range`: a new value of it would undo the visitor's zoom. This only trims the room kept for markers.
            "autorangeoptions": {"clipmin": first, "clipmax": max(last, first + 1)},
            "tickformat": ",d",
            "zeroline": False,
            "showspikes": False,
            "unifiedhovertitle": {"text": "step %{x:,d}"},
        },
        yaxis=_axis("loss"),
        yaxis2=_axis("norm") | {"type": "log", "exponentformat": "power", "dtick": 1},
        yaxis3=_axis("target") | {"rangemode": "tozero"},
        yaxis4=_axis("rate") | {"rangemode": "tozero", "nticks": 3, "exponentformat": "e"},
    )
    return figure


def _axis(panel: str) -> dict[str, Any]:
    low, high, _ = _PANELS[panel]
    return {"domain": [low, high], "zeroline": False, "automargin": False}


def titles(panels: Iterable[tuple[float, float, str]]) -> list[dict[str, Any]]:
    """Axis titles of panels (bottom, top, title): flat above each, where they are read without turning the head."""
    return [
        {
            "xref": "paper",
            "x": 0,
            "xanchor": "left",
            "xshift": -48,
            "yref": "paper",
            "y": high,
            "yanchor": "bottom",
            "showarrow": False,
            "text": title,
            "font": {"size": 13},
        }
        for _, high, title in panels
    ]


def line(
    series: Series | None,
    name: str,
    color: str,
    axis: str,
    *,
    of: str,
    positive: bool = False,
    legend: bool = False,
) -> list[Any]:
    """One value of each bucket (`of` min, mean or max) as a line. `positive`: for a log axis."""
    if series is None or not series.step:
        return []
    values: list[float | None] = getattr(series, of)
    return [
        go.Scatter(
            x=series.step,
            y=[value if not positive or (value or 0) > 0 else None for value in values],
            name=name,
            yaxis=axis,
            mode="lines" if len(series.step) > 1 else "markers",
            line={"color": color, "width": 1.6},
            hovertemplate="%{y:.4g}",
            showlegend=legend,
        )
    ]


def curve(
    series: Series | None, name: str, color: str, axis: str, *, positive: bool = False, legend: bool = False
) -> list[Any]:
    """The mean as a line over a band from smallest to largest. `positive`: for a log axis, which has no place for 0."""
    middle = line(series, name, color, axis, of="mean", positive=positive, legend=legend)
    if series is None or all(count <= 1 for count in series.count):
        return middle
    band = [
        (step, low, high)
        for step, low, high in zip(series.step, series.min, series.max, strict=True)
        if low is not None and high is not None and (low > 0 or not positive)
    ]
    outline = go.Scatter(
        x=[step for step, _, _ in band] + [step for step, _, _ in reversed(band)],
        y=[high for _, _, high in band] + [low for _, low, _ in reversed(band)],
        name=f"{name}, smallest to largest",
        yaxis=axis,
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=_translucent(color),
        hoverinfo="skip",
        showlegend=False,
    )
    return [outline, *middle]


def _points(at: Sequence[marks.StepMark], name: str, color: str, symbol: str) -> list[Any]:
    return [
        go.Scatter(
            x=[mark.step for mark in at],
            y=[mark.height for mark in at],
            name=name,
            yaxis="y2",
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": 9, "line": {"width": 1, "color": "white"}},
            text=[text.plotly(mark.words) for mark in at],
            hovertemplate="%{text}<extra></extra>",
        )
    ]


def change_lines(
    applied: Iterable[marks.ChangeMark], first: int, last: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A vertical line a change, and its label where it does not run into another one's."""
    shapes: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    clearance = 0.13 * max(last - first, 1)
    taken: list[list[int]] = [[], []]  # steps of the labels in each of two rows
    for mark in reversed(list(applied)):  # the newest change gets its label first
        shapes.append(
            {
                "type": "line",
                "x0": mark.step,
                "x1": mark.step,
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": {"color": QUIET, "width": 1.2, "dash": "dot"},
            }
        )
        row = next((row for row in (0, 1) if all(abs(mark.step - other) > clearance for other in taken[row])), None)
        if row is None:
            continue
        taken[row].append(mark.step)
        annotations.append(
            {
                "x": mark.step,
                "yref": "paper",
                "y": 1,
                "yshift": 4 + 15 * row,
                "yanchor": "bottom",
                "xanchor": "right" if mark.step - first > 0.88 * (last - first) else "center",
                "showarrow": False,
                "text": text.plotly(mark.label),
                "hovertext": text.plotly(mark.words),
                "font": {"size": 12, "color": QUIET},
            }
        )
    return shapes, annotations


def throttled_zone(axis: str = "y3") -> dict[str, Any]:
    """The targets below which an old spike holds updates back."""
    return {
        "type": "rect",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": axis,
        "y0": 0,
        "y1": THROTTLED_TARGET,
        "fillcolor": _translucent(TARGET),
        "line": {"width": 0},
        "layer": "below",
    }


def _translucent(color: str) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.22)"
