"""How a page's charts are drawn: smoothing, logarithmic axes, bands. In a menu beside the other controls."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from steadynorm_dashboard.charts.axis import XAxis
from steadynorm_dashboard.charts.panels import Panel
from steadynorm_dashboard.charts.view import View
from steadynorm_dashboard.data import view

SMOOTHING, LOG_X, LOG_Y, BANDS, PINNED = "smoothing", "log x", "log y", "bands", "pinned"
"""Ends of the keys under which the session state has the choices; each begins with the place."""

SMOOTHING_STOPS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


def menu(place: str, panels: Sequence[Panel], *, bands: bool | None = None, pins: bool = False) -> None:
    """Draw the menu. place: prefix of the keys. bands: whether they are drawn at first; None: always.

    pins: whether panels can be pinned to the top.
    """
    titles = {panel.signal.name: panel.signal.title for panel in panels}
    usual = [panel.signal.name for panel in panels if panel.signal.scale == "log"]
    with st.popover("View", icon=":material/tune:", help="Smoothing, and which axes are logarithmic."):
        st.select_slider(
            "Smoothing",
            SMOOTHING_STOPS,
            key=f"{place}/{SMOOTHING}",
            format_func=lambda decay: "none" if decay == 0 else f"{decay:g}",
            help="Exponential moving average of loss, norms and speed over the drawn points; the line itself is faint.",
        )
        st.pills(
            "Logarithmic y axis",
            list(titles),
            selection_mode="multi",
            default=view.default("logy", usual),
            key=f"{place}/{LOG_Y}",
            format_func=titles.__getitem__,
        )
        if pins:
            st.pills(
                "Pinned to the top",
                list(titles),
                selection_mode="multi",
                key=f"{place}/{PINNED}",
                format_func=titles.__getitem__,
            )
        st.toggle(
            "Logarithmic x axis",
            key=f"{place}/{LOG_X}",
            disabled=st.session_state.get(f"{place}/x axis") == XAxis.CLOCK,
        )
        if bands is not None:
            st.toggle("Bands from the smallest to the largest value", bands, key=f"{place}/{BANDS}")


def current(place: str, panels: Sequence[Panel], *, bands: bool = True) -> View:
    """The choice made in the menu of `place`."""
    state = st.session_state
    usual = [panel.signal.name for panel in panels if panel.signal.scale == "log"]
    return View(
        smoothing=float(state.get(f"{place}/{SMOOTHING}") or 0.0),
        log=frozenset(state.get(f"{place}/{LOG_Y}", usual)),
        bands=bool(state.get(f"{place}/{BANDS}", bands)),
        pinned=tuple(state.get(f"{place}/{PINNED}") or ()),
    )
