"""Panels stacked over one x axis: the layout that all line charts share, and the traces and shapes drawn into it.

They are one figure instead of several charts, so that zooming one panel zooms all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from steadynorm_contract.series import Series
from steadynorm_contract.signals import Signal, signal
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts.axis import Axis
from steadynorm_dashboard.charts.colors import BAND, QUIET, TARGET, ZONE, translucent
from steadynorm_dashboard.charts.figure import Figure, Trace, scatter
from steadynorm_dashboard.charts.view import AS_RECORDED, View, moving_average
from steadynorm_dashboard.formatting import escaping

STEPS = Axis()
LEFT_PX, RIGHT_PX = 50, 12
MAP_LEFT_PX = 124
"""Left margin of charts that have the map of layers below them, whose rows have names: they share one x axis."""
_FAINT = 0.35
_TALL = 0.15
"""Share of the figure's height above which a log axis has room for more than three labels."""
_CLEARANCE = 0.17
"""Share of the figure's width: changes closer than this share a label."""
_EDGE = 0.1
"""Share of the figure's width at each end in which a label is placed beside its line instead of over it."""
_ABOVE_TITLE_PX = 20


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: its range in shares of the figure's height, its signal, and what differs from the catalogue of those.

    title: in place of the signal's own title and subtitle. axis: more properties of plotly's y axis.
    """

    low: float
    high: float
    signal: Signal
    title: str | None = None
    axis: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, low: float, high: float, name: str, title: str | None = None, **axis: Any) -> Panel:
        """The panel of the signal `name`."""
        return cls(low, high, signal(name), title, axis)

    def words(self, view: View = AS_RECORDED) -> str:
        """Its title: what is drawn, on which scale, and where the threshold is."""
        of = self.signal
        words = [self.title or f"<b>{of.title}</b> {of.subtitle}"]
        if view.is_log(of):
            words.append("log scale")
        if of.threshold is not None:
            small = f"{'line' if view.is_log(of) else 'shaded'}: too small (below {of.threshold:g})"
            words.append(small if of.worst == "min" else f"line: spike ({of.threshold:g})")
        return ", ".join(words)

    def y_axis(self, view: View = AS_RECORDED) -> dict[str, Any]:
        """Plotly's properties of its y axis."""
        axis: dict[str, Any] = {"domain": [self.low, self.high], "zeroline": False, "automargin": False}
        if not view.is_log(self.signal):
            return axis | ({} if self.signal.name == "loss" else {"rangemode": "tozero"}) | dict(self.axis)
        own = {name: value for name, value in self.axis.items() if name not in ("range", "rangemode", "exponentformat")}
        return axis | {"type": "log", "nticks": 5 if self.high - self.low > _TALL else 3} | own


def pinned_first(panels: Sequence[Panel], pinned: Sequence[str]) -> Sequence[Panel]:
    """`panels` with those of the signals `pinned` on top, in their own order and heights, at equal distances."""
    if not pinned:
        return panels
    order = sorted(panels, key=lambda one: one.signal.name not in pinned)
    heights = [one.high - one.low for one in order]
    gap = (1 - sum(heights)) / (len(order) - 1)
    tops = [1 - sum(heights[:at]) - at * gap for at in range(len(order))]
    return [
        replace(one, low=max(0.0, top - height), high=top)
        for one, top, height in zip(order, tops, heights, strict=True)
    ]


def layout(
    panels: Sequence[Panel],
    x_axis: Mapping[str, Any],
    *,
    height: int,
    revision: str,
    legend_above: int = 0,
    shapes: Iterable[dict[str, Any]] = (),
    notes: Iterable[dict[str, Any]] = (),
    view: View = AS_RECORDED,
    left_px: int = LEFT_PX,
) -> dict[str, Any]:
    """A figure's layout. Panels from top to bottom have the y axes y, y2, y3, ...

    x_axis: see `Axis.layout`. revision: zoom and hidden traces persist while it stays the same. legend_above: the
    panel above which the legend is placed. left_px: margin for the labels of the y axes.

    Only markers have a hover label of plotly's; the values at the pointer are shown beside the panels' titles, with a
    line through all charts of a page, see `live_chart`.
    """
    names = ["y", *(f"y{at}" for at in range(2, len(panels) + 1))]
    axes = {f"yaxis{name[1:]}": one.y_axis(view) for name, one in zip(names, panels, strict=True)}
    thresholds = [
        _threshold(name, one.signal.threshold, shaded=one.signal.worst == "min" and not view.is_log(one.signal))
        for name, one in zip(names, panels, strict=True)
        if one.signal.threshold is not None
    ]
    return {
        "height": height,
        "margin": {"l": left_px, "r": RIGHT_PX, "t": 40, "b": 44},  # above the title, the labels of changes
        "hovermode": "closest",
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
        "annotations": [*(_title(one, view, left_px) for one in panels), *notes],
        "xaxis": {"anchor": names[-1]} | dict(x_axis),
        **axes,
    }


def with_steps_on_top(figure: Figure) -> Figure:
    """The same with labels of the x axis below its first panel too, since the last one may be out of sight."""
    for trace in figure.data:
        if trace.get("yaxis", "y") == "y":
            trace["xaxis"] = "x2"
    first = {name: value for name, value in figure.layout["xaxis"].items() if name != "title"}
    figure.layout["xaxis2"] = first | {"anchor": "y", "matches": "x"}
    return figure


def _title(panel: Panel, view: View, left_px: int) -> dict[str, Any]:
    """A panel's title, horizontal above it instead of along the y axis."""
    return {
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "xshift": 2 - left_px,
        "yref": "paper",
        "y": panel.high,
        "yanchor": "bottom",
        "showarrow": False,
        "text": panel.words(view),
        "font": {"size": 13},
    }


def _threshold(y_axis: str, at: float, *, shaded: bool) -> dict[str, Any]:
    """A shaded zone from 0 to the threshold, else a line at it: a logarithmic axis has no 0."""
    shape: dict[str, Any] = {"xref": "paper", "x0": 0, "x1": 1, "yref": y_axis, "y1": at}
    if shaded:
        zone = {"type": "rect", "y0": 0, "fillcolor": translucent(TARGET, ZONE), "line": {"width": 0}, "layer": "below"}
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
    view: View = AS_RECORDED,
    of: Signal | None = None,
) -> list[Trace]:
    """One value of each bucket of the signal `name`: its worst one where the signal has a threshold, else the mean.

    label: in place of the signal's title. group: traces that are hidden and shown together. of: a signal that is not in
    the catalogue. Two lines of a signal that
    `view` smooths: its own, faint, and its moving average.
    """
    found, of = series.get(name), of or signal(name)
    if found is None or not found.step:
        return []
    values = found.mean if of.threshold is None else found.min if of.worst == "min" else found.max
    log, title = view.is_log(of), label or of.title
    drawn = scatter(
        x=x_axis.xs(found.step),
        y=[value if not log or (value or 0) > 0 else None for value in values],
        name=title,
        yaxis=y_axis,
        mode="lines" if len(found.step) > 1 else "markers",
        line={"color": color, "width": 1.6, "dash": dash},
        hoverinfo="skip",
        showlegend=legend,
        legendgroup=group,
    )
    if not view.smooths(of):
        return [drawn]
    together = group or title
    average = moving_average(drawn["y"], view.smoothing, log=log)
    smooth = drawn | {"y": average, "name": f"{title}, smoothed", "legendgroup": together}
    return [drawn | {"opacity": _FAINT, "showlegend": False, "legendgroup": together}, smooth]


def band(
    series: Mapping[str, Series],
    name: str,
    color: str,
    y_axis: str,
    *,
    x_axis: Axis = STEPS,
    label: str | None = None,
    group: str | None = None,
    opacity: float = BAND,
    view: View = AS_RECORDED,
    of: Signal | None = None,
    **style: Any,
) -> list[Trace]:
    """The mean as a line over a band from each bucket's smallest to its largest value, so that no spike is lost.

    style: more arguments of `line`.
    """
    middle = line(series, name, color, y_axis, x_axis=x_axis, label=label, group=group, view=view, of=of, **style)
    found, of = series.get(name), of or signal(name)
    if not view.bands or found is None or all(count <= 1 for count in found.count):
        return middle
    extremes = [
        (x, low, high)
        for x, low, high in zip(x_axis.xs(found.step), found.min, found.max, strict=True)
        if low is not None and high is not None and (low > 0 or not view.is_log(of))
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
        "x": x_axis.note_x(newest.step),
        "yref": "paper",
        "y": 1,
        "yshift": _ABOVE_TITLE_PX,
        "yanchor": "bottom",
        "xanchor": "right" if place > 1 - _EDGE else "left" if place < _EDGE else "center",
        "showarrow": False,
        "text": escaping.plotly(label),
        "hovertext": "<br>".join(escaping.plotly(each.text) for each in reversed(together)),
        "font": {"size": 12},  # live_chart.js colors it
        "captureevents": True,
        "name": newest.key,  # returned on a click, see live_chart
    }


def vertical(x: object) -> dict[str, Any]:
    """A line through all panels."""
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1}
