"""The heat map on a run's page: which layer, since when. A click opens the parameter."""

from __future__ import annotations

import streamlit as st

from steadynorm_dashboard import navigation
from steadynorm_dashboard.charts import heatmap
from steadynorm_dashboard.charts.layers import MAX_ROWS, blocks
from steadynorm_dashboard.components.live_chart import live_chart
from steadynorm_dashboard.data import queries, view
from steadynorm_dashboard.formatting import escaping
from steadynorm_dashboard.panels import chart_controls, messages

_WHOLE = "whole model"
_MAX_LABEL = 64


@st.fragment(run_every=5)
def panel(run_id: str) -> None:
    """Layers × steps, over the range that the charts show."""
    head, which, part = st.columns([2.2, 1, 1], vertical_alignment="center")
    head.header("Layers in model order", anchor=False, help="Click one to open the parameter.")
    view.hold("map")
    with which:
        picked = st.segmented_control(
            "Show",
            list(heatmap.SIGNALS),
            default=view.default("map", "spike ratio"),
            required=True,
            key=f"{run_id}/heat/signal",
            label_visibility="collapsed",
        )
    signal = picked or "spike ratio"
    run, error = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id), share="newest")
    if run is None:
        messages.show_error(error)
        return
    viewport = chart_controls.current(run_id, run.step)
    matrix, error = queries.fetch(
        f"{run_id}/heat/{signal}/{viewport.window}",
        lambda client: client.heatmap(
            run_id, heatmap.SIGNALS[signal], start=viewport.start, stop=viewport.stop, points=heatmap.COLUMNS
        ),
        share=viewport.shared_key,
        immutable=viewport.immutable,
    )
    if matrix is None:
        messages.show_error(error)
        return
    block = None
    if len(matrix.parameters) > MAX_ROWS:
        choices = {layer.name: len(layer.members) for layer in blocks(matrix.parameters) if len(layer.members) > 1}
        chosen = part.selectbox(
            "Part of the model",
            [_WHOLE, *choices],
            key=f"{run_id}/heat/block",
            label_visibility="collapsed",
            format_func=lambda name: escaping.visible(name, _MAX_LABEL),
        )
        block = None if chosen == _WHOLE else chosen
    events, _ = queries.fetch(f"{run_id}/events", lambda client: client.events(run_id), share="newest")
    figure = heatmap.heatmap_figure(
        matrix,
        events.events if events else [],
        revision=f"{run_id}/{signal}/{viewport.window}/{viewport.zoom}/{block}",
        block=block,
        x_axis=chart_controls.shown_axis(run_id),
    )
    if figure is None:
        st.caption("No parameter rows yet: the agent sends them every few steps (`detail_every`) and around spikes.")
        return
    clicked = live_chart(
        figure, key=f"{run_id}/heat/{signal}/{block}", name="Map of layers", clicks=True, group=run_id, follows=True
    ).clicked
    if clicked in matrix.parameters:
        navigation.open_page(run=run_id, parameter=clicked)
