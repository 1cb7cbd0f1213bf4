"""Panels stacked over one x axis: the layout that all line charts share, and the traces and shapes drawn into it.

They are one figure instead of several charts, so that zooming one panel zooms all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steadynorm_contract.series import Series
from steadynorm_contract.signals import Signal, signal
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts.axis import Axis
from steadynorm_dashboard.charts.colors import QUIET, TARGET, translucent
from steadynorm_dashboard.charts.figure import Trace, scatter
from steadynorm_dashboard.formatting import escaping

STEPS = Axis()
_TALL = 0.15
"""Share of the figure's height above which a log axis has room for more than three labels."""
_CLEARANCE = 0.17
"""Share of the figure's width: changes closer than this share a label."""
_EDGE = 0.1
"""Share of the figure's width at each end in which a label is placed beside its line instead of over it."""
_ABOVE_TITLE_PX = 20


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: its range in shares of the figure's height, its title, its y axis, and a threshold to draw."""

    low: float
    high: float
    title: str
    axis: Mapping[str, Any]
    signal: Signal

    @classmethod
    def of(cls, low: float, high: float, name: str, title: str | None = None, **axis: Any) -> Panel:
        """A panel with the title, scale and threshold of the signal `name` in the catalogue.

        title: in place of the signal's own title and subtitle. axis: more properties of plotly's y axis.
        """
        of = signal(name)
        words = [title or f"<b>{of.title}</b> {of.subtitle}"]
        if of.scale == "log":
            words.append("log scale")
            axis = {"type": "log", "exponentformat": "power", "nticks": 5 if high - low > _TALL else 3} | axis
        elif name != "loss":
            axis = {"rangemode": "tozero"} | axis
        if of.threshold is not None:
            words.append(
                f"shaded: throttled (below {of.threshold:g})"
                if of.worst == "min"
                else f"line: spike ({of.threshold:g})"
            )
        return cls(low, high, ", ".join(words), axis, of)


def layout(
    panels: Sequence[Panel],
    x_axis: Mapping[str, Any],
    *,
    height: int,
    revision: str,
    legend_above: int = 0,
    shapes: Iterable[dict[str, Any]] = (),
    notes: Iterable[dict[str, Any]] = (),
) -> dict[str, Any]:
    """A figure's layout. Panels from top to bottom have the y axes y, y2, y3, ...

    x_axis: see `Axis.layout`. revision: zoom and hidden traces persist while it stays the same. legend_above: the
    panel above which the legend is placed.
    """
    names = ["y", *(f"y{at}" for at in range(2, len(panels) + 1))]
    axes = {
        f"yaxis{name[1:]}": {"domain": [one.low, one.high], "zeroline": False, "automargin": False} | dict(one.axis)
        for name, one in zip(names, panels, strict=True)
    }
    thresholds = [
        _threshold(name, one.signal.threshold, one.signal.worst)
        for name, one in zip(names, panels, strict=True)
        if one.signal.threshold is not None
    ]
    return {
        "height": height,
        "margin": {"l": 50, "r": 12, "t": 64, "b": 44},  # room for the mode bar above the labels of changes
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
        "shapes": [*thresholds, *shapes],
        "annotations": [*(_title(one) for one in panels), *notes],
        "xaxis": {"anchor": names[-1]} | dict(x_axis),
        **axes,
    }


def _title(panel: Panel) -> dict[str, Any]:
    """A panel's title, horizontal above it instead of along the y axis."""
    return {
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "xshift": -48,
        "yref": "paper",
        "y": panel.high,
        "yanchor": "bottom",
        "showarrow": False,
        "text": panel.title,
        "font": {"size": 13},
    }


def _threshold(y_axis: str, at: float, worst: str) -> dict[str, Any]:
    """A shaded zone below the threshold where small values are bad, else a line at it."""
    shape: dict[str, Any] = {"xref": "paper", "x0": 0, "x1": 1, "yref": y_axis, "y1": at}
    if worst == "min":
        zone = {"type": "rect", "y0": 0, "fillcolor": translucent(TARGET), "line": {"width": 0}, "layer": "below"}
        return shape | zone
    return shape | {"type": "line", "y0": at, "line": {"color": QUIET, "width": 1, "dash": "dash"}}


def line(
    series: Mapping[str, Series],
    name: str,
    color: str,
    y_axis: str,
    *,
    label: str | None = None,
    legend: bool = False,
    x_axis: Axis = STEPS,
    dash: str = "solid",
    group: str | None = None,
) -> list[Trace]:
    """One value of each bucket of the signal `name`: its worst one where the signal has a threshold, else the mean.

    label: in place of the signal's title. group: traces that are hidden and shown together.
    """
    found, of = series.get(name), signal(name)
    if found is None or not found.step:
        return []
    values = found.mean if of.threshold is None else found.min if of.worst == "min" else found.max
    positive = of.scale == "log"
    return [
        scatter(
            x=x_axis.xs(found.step),
            y=[value if not positive or (value or 0) > 0 else None for value in values],
            name=label or of.title,
            yaxis=y_axis,
            mode="lines" if len(found.step) > 1 else "markers",
            line={"color": color, "width": 1.6, "dash": dash},
            hovertemplate="%{y:.4g}",
            showlegend=legend,
            legendgroup=group,
        )
    ]


def band(
    series: Mapping[str, Series],
    name: str,
    color: str,
    y_axis: str,
    *,
    label: str | None = None,
    legend: bool = False,
    x_axis: Axis = STEPS,
    dash: str = "solid",
    group: str | None = None,
    opacity: float = 0.22,
) -> list[Trace]:
    """The mean as a line over a band from each bucket's smallest to its largest value, so that no spike is lost."""
    middle = line(series, name, color, y_axis, label=label, legend=legend, x_axis=x_axis, dash=dash, group=group)
    found, of = series.get(name), signal(name)
    if found is None or all(count <= 1 for count in found.count):
        return middle
    extremes = [
        (x, low, high)
        for x, low, high in zip(x_axis.xs(found.step), found.min, found.max, strict=True)
        if low is not None and high is not None and (low > 0 or of.scale != "log")
    ]
    outline = scatter(
        x=[x for x, _, _ in extremes] + [x for x, _, _ in reversed(extremes)],
        y=[high for _, _, high in extremes] + [low for _, low, _ in reversed(extremes)],
        name=f"{label or of.title}, smallest to largest",
        yaxis=y_axis,
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
    changes: Sequence[markers.ChangeMarker], first: int, last: int, x_axis: Axis = STEPS
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A vertical line for each change, and a row of labels above the title; changes close together share a label.

    A label is placed at the newest of its changes, and a click on it opens that one.
    """
    shapes = [
        vertical(x_axis.x(each.step)) | {"line": {"color": QUIET, "width": 1.2, "dash": "dot"}} for each in changes
    ]
    groups: list[tuple[float, list[markers.ChangeMarker]]] = []  # by the place of the newest one, which comes first
    for each in reversed(changes):
        place = x_axis.share(each.step, first, last)
        if groups and groups[-1][0] - place <= _CLEARANCE:
            groups[-1][1].append(each)
        else:
            groups.append((place, [each]))
    return shapes, [_change_label(place, together, x_axis) for place, together in groups]


def _change_label(place: float, together: Sequence[markers.ChangeMarker], x_axis: Axis) -> dict[str, Any]:
    newest, oldest = together[0], together[-1]
    label = newest.label if newest is oldest else f"r{oldest.revision}–r{newest.revision}"
    return {
        "x": x_axis.x(newest.step),
        "yref": "paper",
        "y": 1,
        "yshift": _ABOVE_TITLE_PX,
        "yanchor": "bottom",
        "xanchor": "right" if place > 1 - _EDGE else "left" if place < _EDGE else "center",
        "showarrow": False,
        "text": escaping.plotly(label),
        "hovertext": "<br>".join(escaping.plotly(each.text) for each in reversed(together)),
        "font": {"size": 12, "color": QUIET},
        "captureevents": True,
        "name": newest.key,  # returned on a click, see live_chart
    }


def vertical(x: object) -> dict[str, Any]:
    """A line through all panels."""
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1}
