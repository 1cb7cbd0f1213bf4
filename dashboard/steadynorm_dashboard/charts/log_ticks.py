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
        least, most = min(ends), max(ends)
        decades = _PADDED * (math.log10(most) - math.log10(least))
        axis["tickformat"] = _FORMAT
        low, high = axis.get("domain", (0.0, 1.0))
        room = max(2, int(layout["height"] * (high - low) / _LABEL_PX))
        if decades < 1:
            axis["nticks"] = min(axis.get("nticks", room), room)  # even steps, as on any other axis
        elif room > 3 * decades or _powers(least, most) < 2:
            axis["dtick"] = "D2"  # 1, 2, 5; close together where it is low, since one label tells no scale
        else:
            apart = range(math.ceil(decades / room), 0, -1)  # powers of ten: as far as they need, but two at least
            axis["dtick"] = next(each for each in apart if _powers(least, most, each) > 1)


def _powers(low: float, high: float, apart: int = 1) -> int:
    """How many of each `apart`th power of ten there are between them."""
    return math.floor(math.log10(high) / apart) - math.ceil(math.log10(low) / apart) + 1
