"""An incident's chart: norms and targets of the first affected parameters, step by step around the event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.events import Event
from steadynorm_contract.series import Heatmap
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts.colors import LINE_STYLES, RAW
from steadynorm_dashboard.charts.figure import Figure, Trace, scatter
from steadynorm_dashboard.charts.incident_analysis import AffectedParameter
from steadynorm_dashboard.charts.panels import STEPS, Panel, change_lines, layout, vertical
from steadynorm_dashboard.formatting import escaping

_PANELS = (
    Panel.of(0.44, 1.0, "raw_norm", "<b>gradient norm</b> L2 of each tensor, crosses: not finite"),
    Panel.of(0.0, 0.34, "target", range=[0, 1.2], rangemode="normal"),
)


def incident_figure(
    norms: Heatmap, targets: Heatmap, affected: Sequence[AffectedParameter], event: Event, audit: Sequence[AuditEntry]
) -> Figure | None:
    """The first six of `affected`; None without any. A line marks the event's step."""
    if not affected:
        return None
    traces: list[Trace] = []
    for one, (color, dash) in zip(affected, LINE_STYLES, strict=False):
        label = escaping.plotly(one.name, 80)
        values = norms.extreme[one.place]
        style: dict[str, Any] = {
            "name": label,
            "legendgroup": label,
            "line": {"color": color, "dash": dash, "width": 1.8},
        }
        traces += [
            scatter(x=norms.step, y=[value or None for value in values], hoverinfo="skip", **style),
            scatter(
                x=targets.step,
                y=targets.extreme[one.place],
                yaxis="y2",
                hoverinfo="skip",
                showlegend=False,
                **style,
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
    event_line = vertical(event.step) | {"line": {"color": RAW, "width": 1.2, "dash": "dot"}}
    whole = layout(
        _PANELS,
        STEPS.layout(first, last),
        height=500,
        revision=event.id,
        shapes=[event_line, *shapes],
        notes=notes,
    )
    # Names may be long: they get a row of their own, above the labels of changes.
    whole["margin"]["t"] = 70
    whole["legend"] |= {"x": 0, "xanchor": "left", "y": 1.1}
    return Figure(traces, whole)
