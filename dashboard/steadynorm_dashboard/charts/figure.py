"""A figure as plain data, in the form that plotly's library in the browser expects.

Plotly's Python classes validate and copy every value, which takes 20 ms for a run's figure and 40 ms for a heat map,
every second and for every visitor. The tests validate each kind of figure with them instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from steadynorm_dashboard.charts import log_ticks

Trace = dict[str, Any]


@dataclass(slots=True)
class Figure:
    """Traces and layout. A number that is not finite becomes null."""

    data: list[Trace] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        log_ticks.set_ticks(self.data, self.layout)

    @property
    def height_px(self) -> int:
        """The height of the whole figure."""
        return int(self.layout["height"])

    def to_json(self) -> str:
        """The figure as JSON."""
        return msgspec.json.encode({"data": self.data, "layout": self.layout}).decode()


def scatter(**properties: Any) -> Trace:
    """A line or markers, as SVG: without a GPU, WebGL is slower."""
    return {"type": "scatter"} | properties
