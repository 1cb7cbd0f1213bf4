"""Panels above each other over one axis: the layout that all figures of curves share, and what is drawn into it.

One figure instead of several charts, so that zooming one panel zooms all. SVG traces only: without a GPU, WebGL is
slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steadynorm_contract.rule import SPIKE_RATIO, THROTTLED_TARGET
from steadynorm_contract.series import Series
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts.axis import Axis
from steadynorm_dashboard.charts.colors import QUIET, TARGET, translucent
from steadynorm_dashboard.charts.figure import Trace, scatter
from steadynorm_dashboard.formatting import escaping

__all__ = [
    "LOG",
    "SHORT_LOG",
    "STEPS",
    "Panel",
    "band",
    "change_lines",
    "layout",
    "line",
    "spike_line",
    "throttled_zone",
    "titles",
    "vertical",
]

STEPS = Axis()
LOG: dict[str, Any] = {"type": "log", "exponentformat": "power", "nticks": 5}
SHORT_LOG: dict[str, Any] = LOG | {"nticks": 3}
"""For a panel in which more labels would run into each other."""

_CLEARANCE = 0.17
"""Of the figure's width: changes that are closer share a label."""
_EDGE = 0.1
"""Of the figure's width, at each end: there a label stands beside its line, and not over it."""
_ABOVE_TITLE_PX = 20


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: from where to where, in shares of the figure's height; its title with the unit; its own y axis."""

    low: float
    high: float
    title: str
    axis: Mapping[str, Any] = field(default_factory=dict)


def layout(
    panels: Sequence[Panel],
    along: Mapping[str, Any],
    *,
    height: int,
    revision: str,
    legend_above: int = 0,
    shapes: Iterable[dict[str, Any]] = (),
    notes: Iterable[dict[str, Any]] = (),
) -> dict[str, Any]:
    """A figure's layout. Panels from top to bottom have the axes y, y2, y3, ...

    along: the axis from left to right, see `Axis.layout`. revision: zoom and hidden traces persist while it stays
    the same. legend_above: the panel above which the legend stands.
    """
    axes = {
        f"yaxis{at if at > 1 else ''}": {"domain": [one.low, one.high], "zeroline": False, "automargin": False}
        | dict(one.axis)
        for at, one in enumerate(panels, 1)
    }
    return {
        "height": height,
        "margin": {"l": 50, "r": 12, "t": 64, "b": 44},  # above the labels of changes is room for the buttons
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "legend": {
            "orientation": "h",
            "x": 1,
            "xanchor": "right",
            "y": panels[legend_above].high,
            "yanchor": "bottom",
        },
        "uirevision": revision,
        "dragmode": "zoom",
        "shapes": list(shapes),
        "annotations": [*titles(panels), *notes],
        "xaxis": {"anchor": f"y{len(panels) if len(panels) > 1 else ''}"} | dict(along),
        **axes,
    }


def titles(panels: Iterable[Panel]) -> list[dict[str, Any]]:
    """Titles of panels: flat above each, where they are read without turning the head."""
    return [
        {
            "xref": "paper",
            "x": 0,
            "xanchor": "left",
            "xshift": -48,
            "yref": "paper",
            "y": one.high,
            "yanchor": "bottom",
            "showarrow": False,
            "text": one.title,
            "font": {"size": 13},
        }
        for one in panels
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
    along: Axis = STEPS,
    dash: str = "solid",
    group: str | None = None,
) -> list[Trace]:
    """One value of each bucket (`of` min, mean or max) as a line. `positive`: for a log axis.

    group: traces that are hidden and shown together.
    """
    if series is None or not series.step:
        return []
    values: list[float | None] = getattr(series, of)
    return [
        scatter(
            x=along.xs(series.step),
            y=[value if not positive or (value or 0) > 0 else None for value in values],
            name=name,
            yaxis=axis,
            mode="lines" if len(series.step) > 1 else "markers",
            line={"color": color, "width": 1.6, "dash": dash},
            hovertemplate="%{y:.4g}",
            showlegend=legend,
            legendgroup=group,
        )
    ]


def band(
    series: Series | None,
    name: str,
    color: str,
    axis: str,
    *,
    positive: bool = False,
    legend: bool = False,
    along: Axis = STEPS,
    dash: str = "solid",
    group: str | None = None,
    opacity: float = 0.22,
) -> list[Trace]:
    """The mean as a line over a band from smallest to largest, so that no spike is lost between two points.

    positive: for a log axis, which has no place for 0.
    """
    middle = line(
        series, name, color, axis, of="mean", positive=positive, legend=legend, along=along, dash=dash, group=group
    )
    if series is None or all(count <= 1 for count in series.count):
        return middle
    held = [
        (step, low, high)
        for step, low, high in zip(along.xs(series.step), series.min, series.max, strict=True)
        if low is not None and high is not None and (low > 0 or not positive)
    ]
    outline = scatter(
        x=[x for x, _, _ in held] + [x for x, _, _ in reversed(held)],
        y=[high for _, _, high in held] + [low for _, low, _ in reversed(held)],
        name=f"{name}, smallest to largest",
        yaxis=axis,
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=translucent(color, opacity),
        hoverinfo="skip",
        showlegend=False,
        legendgroup=group,
    )
    return [outline, *middle]


def change_lines(
    applied: Iterable[markers.ChangeMark], first: int, last: int, along: Axis = STEPS
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A vertical line a change, and in a row above the title their labels, one for those that are close together.

    A label stands at the newest of its changes, and a click on it opens that one.
    """
    changes = list(applied)
    shapes = [
        vertical(along.x(mark.step)) | {"line": {"color": QUIET, "width": 1.2, "dash": "dot"}} for mark in changes
    ]
    groups: list[tuple[float, list[markers.ChangeMark]]] = []  # by the place of the newest one, which comes first
    for mark in reversed(changes):
        place = along.share(mark.step, first, last)
        if groups and groups[-1][0] - place <= _CLEARANCE:
            groups[-1][1].append(mark)
        else:
            groups.append((place, [mark]))
    return shapes, [_change_label(place, together, along) for place, together in groups]


def _change_label(place: float, together: Sequence[markers.ChangeMark], along: Axis) -> dict[str, Any]:
    newest, oldest = together[0], together[-1]
    label = newest.label if newest is oldest else f"r{oldest.revision}–r{newest.revision}"
    return {
        "x": along.x(newest.step),
        "yref": "paper",
        "y": 1,
        "yshift": _ABOVE_TITLE_PX,
        "yanchor": "bottom",
        "xanchor": "right" if place > 1 - _EDGE else "left" if place < _EDGE else "center",
        "showarrow": False,
        "text": escaping.plotly(label),
        "hovertext": "<br>".join(escaping.plotly(mark.words) for mark in reversed(together)),
        "font": {"size": 12, "color": QUIET},
        "captureevents": True,
        "name": newest.key,  # what a click answers, see live_chart
    }


def vertical(x: object) -> dict[str, Any]:
    """A line through all panels."""
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1}


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
        "fillcolor": translucent(TARGET),
        "line": {"width": 0},
        "layer": "below",
    }


def spike_line(axis: str) -> dict[str, Any]:
    """The ratio above which a norm is a spike."""
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": axis,
        "y0": SPIKE_RATIO,
        "y1": SPIKE_RATIO,
        "line": {"color": QUIET, "width": 1, "dash": "dash"},
    }
