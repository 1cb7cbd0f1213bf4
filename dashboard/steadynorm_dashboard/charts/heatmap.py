"""The heat map: layers from top to bottom in model order, steps from left to right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.series import Heatmap
from steadynorm_contract.signals import signal
from steadynorm_dashboard.charts.axis import Axis
from steadynorm_dashboard.charts.colors import BAD, QUIET
from steadynorm_dashboard.charts.figure import Figure, Trace, scatter
from steadynorm_dashboard.charts.layers import Layer, block_of, layers, worst_rows
from steadynorm_dashboard.charts.panels import MAP_LEFT_PX, RIGHT_PX, STEPS
from steadynorm_dashboard.formatting import escaping

SIGNALS = {signal(f"{name}/").title: name for name in ("spike_ratio", "raw_norm")}
"""The signals that the map can show, by title."""

COLUMNS = 160
"""Buckets requested from the server: narrower cells cannot be distinguished."""

# From transparent over blue to orange, which starts where a norm is a spike (10 times its baseline). The background
# shows through where a run is calm; the step from blue to orange is visible with any kind of color vision.
_RATIO_SCALE = [
    [0.0, "rgba(123,135,148,0.10)"],
    [0.30, "rgba(27,133,196,0.22)"],
    [0.499, "rgba(27,133,196,0.80)"],
    [0.50, "#e8853a"],
    [0.75, "#d55e00"],
    [1.0, "#8f2c00"],
]
_RATIO_RANGE = (0.0, 2.0)  # log10: 1 to 100 times
_NORM_SCALE = "Cividis"
_ROW_PX, _FEWEST_PX = 14, 210
_LABEL_CHARACTERS = 20  # as many as fit into MAP_LEFT_PX


def heatmap_figure(
    heat: Heatmap, events: Iterable[Event] = (), *, revision: str, block: str | None = None, x_axis: Axis | None = None
) -> Figure | None:
    """The map of `heat`, of spike_ratio or raw_norm; None where no row was recorded. `customdata` is the parameter.

    block: show only the parameters of this block, see `layers.block_of`. Crosses mark non-finite gradients.
    x_axis: of the charts above it, which it follows; None: it has its own, by step, and its own zoom.
    """
    chosen = [at for at, name in enumerate(heat.parameters) if block is None or block_of(name) == block]
    if not heat.step or not chosen:
        return None
    along = x_axis or STEPS
    names = [heat.parameters[at] for at in chosen]
    rows = layers(names)
    values, holders = worst_rows(rows, [heat.extreme[at] for at in chosen])
    logs = [[math.log10(value) if value else None for value in row] for row in values]
    ratio = heat.signal == "spike_ratio"
    low, high = _RATIO_RANGE if ratio else _range(logs)
    ticks = list(range(math.ceil(low), math.floor(high) + 1))
    shown = [escaping.plotly(name, 200) for name in names]
    trace: Trace = {
        "type": "heatmap",
        "x": [along.x(edge) for edge in _edges(heat)],
        "y": list(range(len(rows))),
        "z": logs,
        "customdata": [[names[at] for at in row] for row in holders],
        "text": [
            [_hover(shown[at], value, step, ratio) for at, value, step in zip(at_row, row, heat.step, strict=True)]
            for at_row, row in zip(holders, values, strict=True)
        ],
        "hovertemplate": "%{text}<extra></extra>",
        "colorscale": _RATIO_SCALE if ratio else _NORM_SCALE,
        "zmin": low,
        "zmax": high,
        "xgap": 0,
        "ygap": 1,
        "colorbar": {
            "title": {"text": "norm / its baseline" if ratio else "L2 norm", "side": "top"},
            "tickvals": ticks,
            "ticktext": _powers(ticks),
            "thickness": 8,
            "outlinewidth": 0,
            # Above the map, so that the right edge is that of the charts.
            "orientation": "h",
            "len": 0.45,
            "x": 1,
            "xanchor": "right",
            "xpad": 0,
            "y": 1,
            "yanchor": "bottom",
        },
    }
    crosses = _crosses(rows, names, heat, events, along)
    return Figure(
        [trace, *([crosses] if crosses else [])],
        {
            "height": max(_FEWEST_PX, 104 + _ROW_PX * len(rows)),
            "margin": {"l": MAP_LEFT_PX, "r": RIGHT_PX, "t": 58, "b": 42},
            "uirevision": revision,
            "meta": {
                "names": [_label(row, whole=True) for row in rows]
            },  # a narrow map has its own way to shorten them
            "dragmode": "zoom" if x_axis is None else False,
            "shapes": _borders(rows),
            "xaxis": along.layout(heat.step[0], heat.step[-1]) | {"showgrid": False, "fixedrange": x_axis is not None},
            "yaxis": {
                "autorange": "reversed",  # the model's first layer on top
                "tickvals": list(range(len(rows))),
                "ticktext": [_label(row) for row in rows],
                "tickfont": {"size": 10},
                "fixedrange": x_axis is not None,
                "showgrid": False,
                "zeroline": False,
            },
        },
    )


def _edges(heat: Heatmap) -> list[float]:
    """Left edges of the cells and the right edge of the last one, shifted by half a step so that steps are centered.

    A cell extends to the next recorded bucket.
    """
    widths = [after - before for before, after in zip(heat.step, heat.step[1:], strict=False)]
    usual = sorted(widths)[len(widths) // 2] if widths else 1
    return [step - 0.5 for step in [*heat.step, heat.step[-1] + max(1, usual)]]


def _range(logs: Sequence[Sequence[float | None]]) -> tuple[float, float]:
    seen = sorted(value for row in logs for value in row if value is not None)
    if not seen:
        return 0.0, 1.0
    low, high = seen[len(seen) // 100], seen[-1]
    return low, max(high, low + 0.5)


def _powers(ticks: Sequence[int]) -> list[str]:
    """All in one notation."""
    if all(-3 <= power <= 3 for power in ticks):
        return [f"{10.0**power:,g}" for power in ticks]
    return [f"10<sup>{power}</sup>" for power in ticks]


def _hover(name: str, value: float | None, step: int, ratio: bool) -> str:
    what = "not finite" if value is None else f"{value:.3g} × its baseline" if ratio else f"norm {value:.4g}"
    return f"{name}<br>{what}, from step {step:,}"


def _label(row: Layer, *, whole: bool = False) -> str:
    more = f" ({len(row.members)})" if len(row.members) > 1 else ""
    name = row.name
    if len(name) > _LABEL_CHARACTERS and not whole:
        name = name.removesuffix(".weight")  # what distinguishes the rows comes before it
    if len(name) > _LABEL_CHARACTERS and not whole:
        name = "…" + name[1 - _LABEL_CHARACTERS :]
    return escaping.plotly(name + more)


def _borders(rows: Sequence[Layer]) -> list[dict[str, Any]]:
    """Lines between blocks, where each row is one parameter."""
    if any(len(row.members) > 1 for row in rows):
        return []
    found = [block_of(row.name) for row in rows]
    return [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": at - 0.5,
            "y1": at - 0.5,
            "line": {"color": QUIET, "width": 1},
        }
        for at in range(1, len(rows))
        if found[at] != found[at - 1] and len(set(found)) < len(rows)
    ]


def _crosses(
    rows: Sequence[Layer], names: Sequence[str], heat: Heatmap, events: Iterable[Event], along: Axis
) -> Trace | None:
    places = {names[at]: y for y, row in enumerate(rows) for at in row.members}
    found = [
        event
        for event in events
        if event.kind is EventKind.NONFINITE and event.parameter in places and event.step >= heat.step[0]
    ]
    if not found:
        return None
    return scatter(
        x=along.xs(event.step for event in found),
        y=[places[event.parameter or ""] for event in found],
        customdata=[event.parameter for event in found],
        mode="markers",
        marker={"color": BAD, "symbol": "x", "size": 9, "line": {"width": 1, "color": "white"}},
        text=[f"{escaping.plotly(event.parameter or '', 200)}<br>not finite, step {event.step:,}" for event in found],
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
