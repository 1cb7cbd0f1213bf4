"""A figure as plotly's library in the browser takes it, as plain data.

Plotly's own classes check and copy every value: for a run's figure 20 ms, for a heat map 40, a second and a visitor.
The tests check each kind of figure by them once instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from steadynorm_dashboard.charts import log_ticks

__all__ = ["Figure", "Trace", "scatter"]

Trace = dict[str, Any]


@dataclass(slots=True)
class Figure:
    """Traces and layout. A number that is not finite becomes null."""

    data: list[Trace] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        log_ticks.settle(self.data, self.layout)

    @property
    def height_px(self) -> int:
        """Of the whole."""
        return int(self.layout["height"])

    def to_json(self) -> str:
        """As the browser reads it."""
        return msgspec.json.encode({"data": self.data, "layout": self.layout}).decode()


def scatter(**properties: Any) -> Trace:
    """A line or markers, as SVG: without a GPU, WebGL is slower."""
    return {"type": "scatter"} | properties
