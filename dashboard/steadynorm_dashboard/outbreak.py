"""An incident's chart: norms and targets of the parameters that went first, step by step around the event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from steadynorm_contract.heatmap import Heatmap
from steadynorm_contract.rule import THROTTLED_TARGET
from steadynorm_contract.views import AuditEntry, Event
from steadynorm_dashboard import charts, marks, text
from steadynorm_dashboard.first import Struck

__all__ = ["outbreak_figure"]

_SHOWN = 6
# Okabe and Ito's, mid-bright, each with a dash of its own: told apart without colours too.
_LOOKS = (
    ("#d55e00", "solid"),
    ("#1b85c4", "dash"),
    ("#009e73", "dot"),
    ("#b7649a", "dashdot"),
    ("#a08a00", "longdash"),
    ("#7b8794", "longdashdot"),
)
_PANELS = {
    "norm": (0.44, 1.0, "<b>gradient norm</b> L2 of each tensor, log scale; crosses: not finite"),
    "target": (0.0, 0.34, f"<b>target</b> mean norm / RMS norm, shaded: throttled (below {THROTTLED_TARGET})"),
}


def outbreak_figure(
    norms: Heatmap, targets: Heatmap, bad: Sequence[Struck], event: Event, audit: Sequence[AuditEntry]
) -> go.Figure | None:
    """The first six of `bad`; None without any. The event's step is a line."""
    if not bad:
        return None
    traces: list[go.Scatter] = []
    for one, (color, dash) in zip(bad[:_SHOWN], _LOOKS, strict=False):
        label = text.plotly(one.name, 80)
        values = norms.extreme[one.place]
        look: dict[str, Any] = {
            "name": label,
            "legendgroup": label,
            "line": {"color": color, "dash": dash, "width": 1.8},
        }
        traces += [
            go.Scatter(x=norms.step, y=[value or None for value in values], hovertemplate="%{y:.4g}", **look),
            go.Scatter(
                x=targets.step,
                y=targets.extreme[one.place],
                yaxis="y2",
                hovertemplate="%{y:.3g}",
                showlegend=False,
                **look,
            ),
            go.Scatter(
                x=[step for step, value in zip(norms.step, values, strict=True) if value is None],
                y=[one.before or one.peak or 1.0 for value in values if value is None],
                name=f"{label}: not finite",
                legendgroup=label,
                showlegend=False,
                mode="markers",
                marker={"color": color, "symbol": "x", "size": 9, "line": {"width": 1, "color": "white"}},
                hovertemplate="not finite",
            ),
        ]
    first, last = norms.step[0], norms.step[-1]
    shapes, notes = charts.change_lines(marks.changes(audit, first, last), first, last)
    figure = go.Figure(data=traces)
    figure.update_layout(
        height=500,
        margin={"l": 50, "r": 12, "t": 62, "b": 44},
        hovermode="x unified",
        hoversubplots="axis",
        legend={"orientation": "h", "x": 0, "y": 1.07, "yanchor": "bottom"},
        shapes=[charts.throttled_zone("y2"), _event_line(event.step), *shapes],
        annotations=[*charts.titles(_PANELS.values()), *notes],
        uirevision=event.id,
        dragmode="zoom",
        xaxis={
            "title": {"text": "optimizer step"},
            "anchor": "y2",
            "autorangeoptions": {"clipmin": first, "clipmax": max(last, first + 1)},
            "tickformat": ",d",
            "zeroline": False,
            "showspikes": False,
            "unifiedhovertitle": {"text": "step %{x:,d}"},
        },
        yaxis=_axis("norm") | {"type": "log", "exponentformat": "power", "nticks": 6},
        yaxis2=_axis("target") | {"rangemode": "tozero"},
    )
    return figure


def _axis(panel: str) -> dict[str, Any]:
    low, high, _ = _PANELS[panel]
    return {"domain": [low, high], "zeroline": False, "automargin": False}


def _event_line(step: int) -> dict[str, Any]:
    line = {"color": charts.RAW, "width": 1.2, "dash": "dot"}
    return {"type": "line", "x0": step, "x1": step, "yref": "paper", "y0": 0, "y1": 1, "line": line}
