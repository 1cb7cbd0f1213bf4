"""Tick labels of logarithmic axes: each is a whole number of its own, as many as fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

_LABEL_PX = 20
"""Height of one label."""
_FORMAT = ",~g"
"""0.0005, 0.2, 50, 20,000, 1e-7. Without a format plotly writes only the digits 2 and 5 between powers of ten, which
leaves open of which."""
_PADDED = 1.12
"""The range of the axis over that of the values: plotly adds a margin."""


def set_ticks(traces: Iterable[Mapping[str, Any]], layout: Mapping[str, Any]) -> None:
    """Give each logarithmic y axis of `layout` as many labels as fit."""
    values: dict[str, list[float]] = {}
    for trace in traces:
        name = f"yaxis{trace.get('yaxis', 'y')[1:]}"
        if layout.get(name, {}).get("type") != "log":
            continue
        positive = [value for value in trace.get("y", ()) if value is not None and 0 < value < math.inf]
        if positive:
            values.setdefault(name, []).extend((min(positive), max(positive)))
    for name, ends in values.items():
        axis = layout[name]
        decades = _PADDED * (math.log10(max(ends)) - math.log10(min(ends)))
        axis["tickformat"] = _FORMAT
        low, high = axis.get("domain", (0.0, 1.0))
        room = max(2, int(layout["height"] * (high - low) / _LABEL_PX))
        if decades < 1:
            axis["nticks"] = min(axis.get("nticks", room), room)  # even steps, as on any other axis
        elif room > 3 * decades:
            axis["dtick"] = "D2"  # 1, 2, 5
        else:
            axis["dtick"] = math.ceil(decades / room)
