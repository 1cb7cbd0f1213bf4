"""A plotly figure that is updated in place, so that a visitor's zoom survives the next refresh.

`st.plotly_chart` of Streamlit 1.67 treats a figure with other data as another chart: every refresh builds it again and
resets the zoom, whatever `key` and `uirevision` are. This component calls `Plotly.react` instead, with the library from
`plotly_bundle`, which the dashboard serves itself; nothing is loaded from external hosts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from steadynorm_dashboard.charts.description import describe
from steadynorm_dashboard.charts.figure import Figure
from steadynorm_dashboard.charts.resemblance import looks_same
from steadynorm_dashboard.components import files, plotly_bundle

_MOST_S = 5.0
"""A figure that looks like the one that the browser has is sent at last after so long."""
_clock = time.monotonic


@dataclass(frozen=True, slots=True)
class Gesture:
    """What a visitor just did with a chart."""

    clicked: str | None = None
    """The `customdata` of the point, or the `name` of the annotation, that was clicked."""
    zoomed: tuple[str, str] | None = None
    """Both ends of the x axis, in its own unit, after a zoom or a pan."""
    reset: bool = False
    """The zoom was reset."""


def live_chart(
    figure: Figure,
    *,
    key: str,
    name: str,
    clicks: bool = False,
    zooms: bool = False,
    group: str = "",
    follows: bool = False,
) -> Gesture:
    """Draw `figure` in the page's colors. The chart with the same `key` is updated in place.

    It is drawn again where something moves by half a pixel or more: of a long run's whole history, a second's steps
    move nothing. What looks like the figure that the browser has is not even sent, for some seconds: so old may be the
    values at the pointer, each of a whole bucket of steps, and the words for screen readers.

    A line goes through all panels at the pointer, and through the other charts of its group at the same x. The values
    there of the lines without a hover label of their own (`hoverinfo: skip`) stand in the rows of the panels' titles.

    name: what it shows, for screen readers, which also get its values in words.
    clicks, zooms: which gestures to report. group: charts with the same x axis. follows: the x axis always shows the
    range of the chart of its group that zooms.
    """
    about = {"name": name, "clicks": clicks, "zooms": zooms, "group": group, "follows": follows}
    state = _mount(key, figure.height_px, about | _contents(key, figure))
    ends = state.get("zoomed")
    return Gesture(
        clicked=state.get("clicked"),
        zoomed=(str(ends[0]), str(ends[1])) if isinstance(ends, list) and len(ends) == 2 else None,
        reset=isinstance(ends, list) and not ends,
    )


@dataclass(frozen=True, slots=True)
class _Sent:
    """What the browser has of a chart, since when."""

    figure: Figure
    at: float
    contents: dict[str, str]


def _contents(key: str, figure: Figure) -> dict[str, str]:
    """The figure and its words: those that were sent, where they look the same and are new enough."""
    held: _Sent | None = st.session_state.get(f"{key}/sent")
    now = _clock()
    if held is not None and now - held.at < _MOST_S and looks_same(held.figure, figure):
        return held.contents
    contents = {"figure": figure.to_json(), "description": describe(figure)}
    st.session_state[f"{key}/sent"] = _Sent(figure, now, contents)
    return contents


def preload() -> None:
    """Let the browser load plotly's library while the rest of the page is being built."""
    _mount("preload", 1, {})


def _mount(key: str, height: int, data: Mapping[str, object]) -> Any:
    component = st.components.v2.component(
        "steadynorm_chart",
        html='<figure class="steadynorm-figure"><div class="steadynorm-chart"></div><p></p></figure>',
        css=files.text("live_chart.css"),
        js=files.text("drawn_chart.js", "fitted_chart.js", "live_chart.js"),
        isolate_styles=False,  # plotly's style sheet is in the page's head
    )
    return component(
        key=key,
        height=height,
        data={"library": plotly_bundle.ADDRESS, **data},
        on_clicked_change=_ignore,
        on_zoomed_change=_ignore,
    )


def _ignore() -> None:
    """Gestures are read from the component's state, but it reports them only if there is a callback."""
