"""Charts of what a training loop logs under names of its own: a figure for each prefix, a panel for each name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steadynorm_contract.scalars import NONFINITE_PREFIX, ScalarView, logged_signal
from steadynorm_contract.series import Series
from steadynorm_contract.signals import Signal
from steadynorm_dashboard.charts.axis import Axis
from steadynorm_dashboard.charts.colors import BAD, COMPARED_BAND, LINE_STYLES
from steadynorm_dashboard.charts.comparison import ComparedRun
from steadynorm_dashboard.charts.figure import Figure, Trace, scatter
from steadynorm_dashboard.charts.panels import LEFT_PX, STEPS, Panel, band, layout
from steadynorm_dashboard.charts.view import AS_RECORDED, View
from steadynorm_dashboard.formatting import escaping

BUCKETS = 140
"""Points requested of each series."""
MAX_CHARTS = 24
"""Panels of one page."""
AUTOMATIC = 8
"""Panels that are drawn before anybody chooses."""
_PANEL_PX, _GAP_PX, _EDGES_PX = 120, 34, 84


def grouped(names: Sequence[str]) -> dict[str, list[str]]:
    """Names by their prefix, what is before the last slash, in the order in which they came; "": without one."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rpartition("/")[0], []).append(name)
    return groups


def series_names(names: Sequence[str], known: Mapping[str, ScalarView]) -> list[str]:
    """The series to request for these charts."""
    return [*names, *(NONFINITE_PREFIX + name for name in names if known[name].nonfinite)]


def scalars_figure(
    series: Mapping[str, Series],
    scalars: Sequence[ScalarView],
    *,
    revision: str,
    x_axis: Axis = STEPS,
    view: View = AS_RECORDED,
    left_px: int = LEFT_PX,
) -> Figure | None:
    """A panel for each of `scalars`. None where none has a value in the range. revision: see `panels.layout`."""
    shown = [each for each in scalars if any(one.step for one in _of(series, each.name))]
    steps = [step for each in shown for one in _of(series, each.name) for step in (one.step[:1] + one.step[-1:])]
    if not steps:
        return None
    panels, height = _panels([logged_signal(each.name, each.unit, each.sentence) for each in shown])
    traces: list[Trace] = []
    for at, each in enumerate(shown):
        of = panels[at].signal
        y_axis, color = f"y{at + 1}" if at else "y", LINE_STYLES[at % len(LINE_STYLES)][0]
        name = escaping.plotly(each.name)
        traces += band(series, each.name, color, y_axis, label=name, x_axis=x_axis, view=view, of=of)
        traces += _nonfinite(series, each.name, of, x_axis, y_axis)
    return Figure(
        traces,
        layout(
            panels,
            x_axis.layout(min(steps), max(steps)),
            height=height + _EDGES_PX,
            revision=revision,
            view=view,
            left_px=left_px,
        ),
    )


def compared_figure(
    runs: Sequence[ComparedRun],
    x_axes: Sequence[Axis],
    names: Sequence[str],
    *,
    revision: str,
    view: View = AS_RECORDED,
) -> Figure | None:
    """A panel for each of `names` with a line for each run that logs it. None where none does in the range."""
    shown = [name for name in names if any(name in run.series and run.series[name].step for run in runs)]
    if not shown:
        return None
    panels, height = _panels([logged_signal(name) for name in shown])
    traces: list[Trace] = []
    for run, x_axis, (color, dash) in zip(runs, x_axes, LINE_STYLES, strict=False):
        label = escaping.plotly(run.label, 60)
        for at, name in enumerate(shown):
            of, y_axis = panels[at].signal, f"y{at + 1}" if at else "y"
            traces += band(
                run.series, name, color, y_axis,
                label=label, group=run.label, dash=dash, x_axis=x_axis, view=view, of=of, opacity=COMPARED_BAND,
            )  # fmt: skip
    first = next(axis for run, axis in zip(runs, x_axes, strict=True) if any(one.step for one in run.series.values()))
    return Figure(traces, layout(panels, first.layout(), height=height + _EDGES_PX, revision=revision, view=view))


def _panels(signals: Sequence[Signal]) -> tuple[list[Panel], int]:
    """A panel for each, and the height of all of them."""
    height = len(signals) * _PANEL_PX + (len(signals) - 1) * _GAP_PX
    panels = []
    for at, of in enumerate(signals):
        top = 1 - at * (_PANEL_PX + _GAP_PX) / height
        title = f"<b>{escaping.plotly(of.title)}</b> {escaping.plotly(of.subtitle)}"
        panels.append(Panel(max(0.0, top - _PANEL_PX / height), top, of, title, {"rangemode": "normal", "nticks": 4}))
    return panels, height


def _of(series: Mapping[str, Series], name: str) -> list[Series]:
    return [series[each] for each in (name, NONFINITE_PREFIX + name) if each in series]


def _nonfinite(series: Mapping[str, Series], name: str, of: Signal, x_axis: Axis, y_axis: str) -> list[Trace]:
    """A cross where a value was NaN or infinite, at the height of the value before it."""
    flags = series.get(NONFINITE_PREFIX + name)
    steps = [] if flags is None else [step for step, top in zip(flags.step, flags.max, strict=True) if top]
    if not steps:
        return []
    values = series.get(name)
    known: list[tuple[int, float | None]] = [] if values is None else list(zip(values.step, values.mean, strict=True))
    heights: list[Any] = [next((value for at, value in reversed(known) if at <= step), 0.0) for step in steps]
    return [
        scatter(
            x=x_axis.xs(steps),
            y=heights,
            name=f"{escaping.plotly(of.title)}: NaN or infinite",
            yaxis=y_axis,
            mode="markers",
            marker={"color": BAD, "symbol": "x", "size": 10, "line": {"width": 1, "color": "white"}},
            hovertemplate="NaN or infinite<extra></extra>",
            showlegend=False,
        )
    ]
