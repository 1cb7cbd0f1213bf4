"""The controls of a page's charts: the range of steps, the x axis, a zoom, and whether updates are paused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from steadynorm_contract.series import Series
from steadynorm_contract.words import counted
from steadynorm_dashboard import navigation
from steadynorm_dashboard.charts.axis import Axis, XAxis
from steadynorm_dashboard.charts.panels import Panel
from steadynorm_dashboard.components.live_chart import Gesture
from steadynorm_dashboard.data import view
from steadynorm_dashboard.panels import chart_view
from steadynorm_dashboard.panels.chart_view import LOG_X

WINDOWS: dict[str, int | None] = {"last 200": 200, "last 1k": 1_000, "last 10k": 10_000, "all steps": None}
"""Options of the range selector, in steps."""

_X_AXES = {
    XAxis.STEP: "by step",
    XAxis.ELAPSED: "by time since start",
    XAxis.CLOCK: "by clock",
}
_WHOLE = "all steps"
_FIRST = ""
_MARGIN = 0.02
"""Share of a zoomed range that is read beyond each end, so that lines do not end inside the chart."""


@dataclass(frozen=True, slots=True)
class Viewport:
    """What the charts show: the steps start..stop, both inclusive; None: from the first step, to the newest one."""

    window: str
    x_axis: XAxis
    start: int | None
    stop: int | None
    newest: int
    zoom: tuple[int, int] | None = None
    paused_at: int | None = None
    resets: int = 0
    log_x: bool = False

    @property
    def immutable(self) -> str | None:
        """The range, if it is in the past, so that its data does not change any more; else None."""
        if self.stop is None or self.stop > self.newest:
            return None
        return f"{self.start}-{self.stop}"

    @property
    def shared_key(self) -> str:
        """The requested range: the same for all visitors of the run who chose it."""
        return f"{self.window}/{self.zoom}/{self.paused_at}"

    @property
    def revision(self) -> str:
        """While it stays the same, a chart keeps its zoom and hidden traces."""
        return f"{self.window}/{self.x_axis}/{self.log_x}/{self.resets}"


def first_step(window: str, newest: int) -> int | None:
    """The first step to show; None: all."""
    length = WINDOWS[window]
    return None if length is None else max(0, newest - length + 1)


def current(place: str, newest: int, of: str = _FIRST) -> Viewport:
    """The viewport chosen by the controls of `place`. newest: the run's newest step.

    of: the run, where charts show several.
    """
    state = st.session_state
    window = state.get(f"{place}/window") or _WHOLE
    x_axis = XAxis(state.get(f"{place}/x axis") or XAxis.STEP)
    paused_at: int | None = state.get(f"{place}/paused at")
    zoomed: tuple[int, int] | None = state.get(f"{place}/zoom", {}).get(of)
    start, stop = first_step(window, newest if paused_at is None else paused_at), paused_at
    if zoomed is not None:
        margin = max(1, round(_MARGIN * (zoomed[1] - zoomed[0])))
        start, stop = max(0, zoomed[0] - margin), zoomed[1] + margin
    return Viewport(
        window,
        x_axis,
        start,
        stop,
        newest,
        zoomed,
        paused_at,
        state.get(f"{place}/resets", 0),
        bool(state.get(f"{place}/{LOG_X}")),
    )


def controls(
    place: str,
    newest: int,
    panels: Sequence[Panel],
    *,
    pause: bool = True,
    bands: bool | None = None,
    pins: bool = False,
) -> Viewport:
    """Draw the controls, and a line beneath them during a zoom or a pause. place: prefix of their keys.

    panels, bands, pins: of the charts, see `chart_view.menu`.
    """
    view.hold("range", "axis", "smoothing", "logx", "logy", "bands", "pinned")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.segmented_control(
            "Steps shown",
            list(WINDOWS),
            default=view.default("range", _WHOLE),
            required=True,
            key=f"{place}/window",
            label_visibility="collapsed",
            on_change=_unzoom,
            args=(place,),
        )
        st.segmented_control(
            "Axis",
            list(_X_AXES),
            default=view.default("axis", XAxis.STEP),
            required=True,
            key=f"{place}/x axis",
            label_visibility="collapsed",
            format_func=_X_AXES.__getitem__,
        )
        if pause:
            _pause(place, newest)
        chart_view.menu(place, panels, bands=bands, pins=pins)
        viewport = current(place, newest)
        if viewport.zoom is not None:
            st.button(
                "Whole range",
                key=f"{place}/whole",
                icon=":material/zoom_out:",
                on_click=_unzoom,
                args=(place, True),
                help="Or double-click a chart.",
            )
    if viewport.paused_at is not None:
        behind = newest - viewport.paused_at
        st.info(
            f"The charts are paused at step {viewport.paused_at:,}. "
            + (f"The run is {counted(behind, 'step')} ahead." if behind > 0 else "The run has taken no more steps."),
            icon=":material/pause:",
        )
    elif viewport.zoom is not None:
        first, last = viewport.zoom
        st.caption(f"Steps {first:,} to {last:,} at full resolution. The charts do not update while zoomed.")
    return viewport


def axis(
    place: str,
    viewport: Viewport,
    series: Iterable[Series],
    started: float,
    *,
    of: str = _FIRST,
    unit: tuple[str, float] | None = None,
) -> Axis:
    """The x axis of `series`. During a zoom it also uses the times of the whole range, to pan out of it."""
    key = f"{place}/axis/{of}"
    known: Axis | None = st.session_state.get(key) if viewport.zoom else None
    log = bool(st.session_state.get(f"{place}/{LOG_X}"))
    found = Axis.of(viewport.x_axis, series, started, st.context.timezone, unit=unit, known=known, log=log)
    if viewport.zoom is None:
        st.session_state[key] = found
    st.session_state[f"{key}/shown"] = found
    return found


def shown_axis(place: str) -> Axis:
    """The x axis on which the charts of `place` were drawn last, for what follows them."""
    found: Axis = st.session_state.get(f"{place}/axis/{_FIRST}/shown") or Axis()
    return found


def apply_zoom(place: str, gesture: Gesture, axes: Mapping[str, Axis] | Axis) -> None:
    """Read the zoomed range at full resolution. axes: by run, where there are several."""
    if gesture.reset:
        if st.session_state.pop(f"{place}/zoom", None):
            navigation.rerun_fragment()
        return
    if gesture.zoomed is None:
        return
    ranges = {}
    for of, one in (axes if isinstance(axes, Mapping) else {_FIRST: axes}).items():
        try:
            ends = [one.step_at(end) for end in gesture.zoomed]
        except (ValueError, OverflowError):
            continue
        ranges[of] = (int(min(ends)), int(max(ends)) + 1)
    if ranges:
        _zoom(place, {_FIRST: next(iter(ranges.values()))} | ranges)


def zoom(place: str, first: int, last: int) -> None:
    """Show the steps first..last at full resolution."""
    _zoom(place, {_FIRST: (first, last)})


def open_at(place: str, first: int, last: int) -> None:
    """Show the steps first..last the next time that the charts are drawn: for links from another page."""
    st.session_state[f"{place}/zoom"] = {_FIRST: (max(0, first), max(0, last))}
    page = {"run": place}
    navigation.remember(page, navigation.seen(page) | {"zoom": [f"{max(0, first)}-{max(0, last)}"]})


def _zoom(place: str, ranges: Mapping[str, tuple[int, int]]) -> None:
    zoom = {of: (max(0, first), max(0, last)) for of, (first, last) in ranges.items()}
    if st.session_state.get(f"{place}/zoom") != zoom:
        st.session_state[f"{place}/zoom"] = zoom
        navigation.rerun_fragment()


def _pause(place: str, newest: int) -> None:
    paused = f"{place}/paused at" in st.session_state
    st.button(
        "Resume updates" if paused else "Pause charts",
        key=f"{place}/pause charts",
        icon=":material/autorenew:" if paused else ":material/pause:",
        on_click=_toggle,
        args=(place, newest),
        help="Pauses only the charts: the training continues, and numbers and settings stay live.",
    )


def _toggle(place: str, newest: int) -> None:
    if st.session_state.pop(f"{place}/paused at", None) is None:
        st.session_state[f"{place}/paused at"] = newest


def _unzoom(place: str, reset: bool = False) -> None:
    """reset: also reset the charts' own zoom and hidden traces."""
    st.session_state.pop(f"{place}/zoom", None)
    if reset:
        st.session_state[f"{place}/resets"] = st.session_state.get(f"{place}/resets", 0) + 1
