"""A plotly figure that is redrawn in place, so that a visitor's zoom survives the next refresh.

`st.plotly_chart` of Streamlit 1.67 takes a figure with other data for another chart: every refresh builds it anew and
forgets the zoom, whatever `key` and `uirevision` say. This small component calls `Plotly.react` instead, with the
library that the plotly package carries; nothing comes from a foreign host.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import plotly
import plotly.graph_objects as go
import streamlit as st
import streamlit.components.v1

__all__ = ["live_chart"]

_FOLDER = "plotly"


def live_chart(
    figure: go.Figure, *, key: str, options: Mapping[str, object] | None = None, clicks: bool = False
) -> str | None:
    """Draw `figure`. The chart of the same `key` is updated in place.

    Layout colours are the page's own. options: plotly's `config`. clicks: answer with the `customdata` of a point
    that was just clicked, where that is a string; else None.
    """
    # Registering serves the folder's files; the first kind of component has no other use here.
    folder = st.components.v1.declare_component(_FOLDER, path=str(Path(plotly.__file__).parent / "package_data"))
    mount = st.components.v2.component(
        "steadynorm_chart",
        html='<div class="steadynorm-chart"></div>',
        js=Path(__file__).with_suffix(".js").read_text("utf-8"),
        isolate_styles=False,  # plotly's style sheet lies in the page's head
    )
    answer = mount(
        key=key,
        height=int(figure.layout.height),
        data={
            "figure": figure.to_json(),
            "library": f"component/{folder.name}/plotly.min.js",
            "options": dict(options or {}),
            "clicks": clicks,
        },
        on_clicked_change=_note,
    )
    return answer.get("clicked")


def _note() -> None:
    """A click is read from the answer; without a callback the component would not report it."""
