"""An incident's chart: norms and targets of the parameters that went first, step by step around the event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.events import Event
from steadynorm_contract.rule import THROTTLED_TARGET
from steadynorm_contract.series import Heatmap
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts.colors import LOOKS, RAW
from steadynorm_dashboard.charts.figure import Figure, Trace, scatter
from steadynorm_dashboard.charts.incident_analysis import AffectedParameter
from steadynorm_dashboard.charts.panels import LOG, STEPS, Panel, change_lines, layout, throttled_zone, vertical
from steadynorm_dashboard.formatting import escaping

__all__ = ["outbreak_figure"]

_PANELS = (
    Panel(
        0.44,
        1.0,
        "<b>gradient norm</b> L2 of each tensor, log scale; crosses: not finite",
        LOG,
    ),
    Panel(
        0.0,
        0.34,
        f"<b>target</b> mean norm / RMS norm, shaded: throttled (below {THROTTLED_TARGET})",
        {"range": [0, 1.2]},
    ),
)


def outbreak_figure(
    norms: Heatmap, targets: Heatmap, bad: Sequence[AffectedParameter], event: Event, audit: Sequence[AuditEntry]
) -> Figure | None:
    """The first six of `bad`; None without any. The event's step is a line."""
    if not bad:
        return None
    traces: list[Trace] = []
    for one, (color, dash) in zip(bad, LOOKS, strict=False):
        label = escaping.plotly(one.name, 80)
        values = norms.extreme[one.place]
        look: dict[str, Any] = {
            "name": label,
            "legendgroup": label,
            "line": {"color": color, "dash": dash, "width": 1.8},
        }
        traces += [
            scatter(x=norms.step, y=[value or None for value in values], hovertemplate="%{y:.4g}", **look),
            scatter(
                x=targets.step,
                y=targets.extreme[one.place],
                yaxis="y2",
                hovertemplate="%{y:.3g}",
                showlegend=False,
                **look,
            ),
            scatter(
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
    shapes, notes = change_lines(markers.changes(audit, first, last), first, last)
    struck_at = vertical(event.step) | {"line": {"color": RAW, "width": 1.2, "dash": "dot"}}
    whole = layout(
        _PANELS,
        STEPS.layout(first, last),
        height=500,
        revision=event.id,
        shapes=[throttled_zone("y2"), struck_at, *shapes],
        notes=notes,
    )
    # Long names: a row of their own, above the labels of changes.
    whole["margin"]["t"] = 70
    whole["legend"] |= {"x": 0, "xanchor": "left", "y": 1.1}
    return Figure(traces, whole)
