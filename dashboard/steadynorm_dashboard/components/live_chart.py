"""A plotly figure that is redrawn in place, so that a visitor's zoom survives the next refresh.

`st.plotly_chart` of Streamlit 1.67 takes a figure with other data for another chart: every refresh builds it anew and
forgets the zoom, whatever `key` and `uirevision` say. This small component calls `Plotly.react` instead, with the
library from `bundle`, which `serve` hands out; nothing comes from a foreign host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from steadynorm_dashboard.charts.figure import Figure
from steadynorm_dashboard.components import plotly_bundle

__all__ = ["Gesture", "live_chart", "preload"]


@dataclass(frozen=True, slots=True)
class Gesture:
    """What a visitor just did with a chart."""

    clicked: str | None = None
    """The `customdata` of the point, or the `name` of the annotation, that was clicked."""
    zoomed: tuple[str, str] | None = None
    """Left and right end of the axis, in its own unit, after a zoom or a pan."""
    unzoomed: bool = False
    """Back to the whole."""


def live_chart(
    figure: Figure,
    *,
    key: str,
    options: Mapping[str, object] | None = None,
    clicks: bool = False,
    zooms: bool = False,
) -> Gesture:
    """Draw `figure`. The chart of the same `key` is updated in place.

    Layout colours are the page's own. options: plotly's `config`. clicks, zooms: which gestures to answer with.
    """
    answer = _mounted(
        key,
        figure.height_px,
        {
            "figure": figure.to_json(),
            "options": dict(options or {}),
            "clicks": clicks,
            "zooms": zooms,
        },
    )
    ends = answer.get("zoomed")
    return Gesture(
        clicked=answer.get("clicked"),
        zoomed=(str(ends[0]), str(ends[1])) if isinstance(ends, list) and len(ends) == 2 else None,
        unzoomed=isinstance(ends, list) and not ends,
    )


def preload() -> None:
    """Let the browser fetch plotly's library while the page is still being made."""
    _mounted("preload", 1, {})


def _mounted(key: str, height: int, data: Mapping[str, object]) -> Any:
    mount = st.components.v2.component(
        "steadynorm_chart",
        html='<div class="steadynorm-chart"></div>',
        js=_script(),
        isolate_styles=False,  # plotly's style sheet lies in the page's head
    )
    return mount(
        key=key,
        height=height,
        data={"library": plotly_bundle.ADDRESS, **data},
        on_clicked_change=_note,
        on_zoomed_change=_note,
    )


def _note() -> None:
    """A gesture is read from the answer; without a callback the component would not report it."""


@cache
def _script() -> str:
    return Path(__file__).with_suffix(".js").read_text("utf-8")
