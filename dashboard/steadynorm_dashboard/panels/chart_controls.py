"""Which steps a page's charts show, and along what: the range, the axis, a zoom, and whether they stand still."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import streamlit as st

from steadynorm_contract.series import Series
from steadynorm_dashboard.charts.axis import Axis, XAxis
from steadynorm_dashboard.components.live_chart import Gesture

__all__ = ["WINDOWS", "Viewport", "aim", "axis", "controls", "current", "first_step", "follow", "zoom"]

WINDOWS: dict[str, int | None] = {"last 200": 200, "last 1k": 1_000, "last 10k": 10_000, "all steps": None}
"""Choices of the range selector, in steps."""

_ALONG = {
    XAxis.STEP: "by step",
    XAxis.ELAPSED: "by time since start",
    XAxis.CLOCK: "by clock",
}
_WHOLE = "all steps"
_FIRST = ""
_MARGIN = 0.02
"""Of a zoomed range: read beyond each end, so that lines do not end within the picture."""


@dataclass(frozen=True, slots=True)
class Viewport:
    """The steps start..stop, both inclusive; None: from the first, to the newest."""

    window: str
    along: XAxis
    start: int | None
    stop: int | None
    newest: int
    zoom: tuple[int, int] | None = None
    paused_at: int | None = None
    drawn_anew: int = 0

    @property
    def still(self) -> str | None:
        """The range, where it lies in the past: an answer for it stays good. None: it moves on."""
        if self.stop is None or self.stop > self.newest:
            return None
        return f"{self.start}-{self.stop}"

    @property
    def question(self) -> str:
        """What is asked for, in words that visitors of one run share."""
        return f"{self.window}/{self.zoom}/{self.paused_at}"

    @property
    def revision(self) -> str:
        """While it stays the same, a chart keeps what a visitor did to it."""
        return f"{self.window}/{self.along}/{self.drawn_anew}"


def first_step(window: str, newest: int) -> int | None:
    """The first step to show; None: all."""
    length = WINDOWS[window]
    return None if length is None else max(0, newest - length + 1)


def current(place: str, newest: int, of: str = _FIRST) -> Viewport:
    """What the controls of `place` say, wherever they stand on the page. newest: the run's newest step.

    of: which run, where the charts show several.
    """
    state = st.session_state
    window = state.get(f"{place}/window") or _WHOLE
    along = XAxis(state.get(f"{place}/along") or XAxis.STEP)
    paused_at: int | None = state.get(f"{place}/paused at")
    zoomed: tuple[int, int] | None = state.get(f"{place}/zoom", {}).get(of)
    start, stop = first_step(window, newest if paused_at is None else paused_at), paused_at
    if zoomed is not None:
        margin = max(1, round(_MARGIN * (zoomed[1] - zoomed[0])))
        start, stop = max(0, zoomed[0] - margin), zoomed[1] + margin
    return Viewport(window, along, start, stop, newest, zoomed, paused_at, state.get(f"{place}/drawn anew", 0))


def controls(place: str, newest: int, *, pause: bool = True) -> Viewport:
    """Draw the controls. place: prefix of their keys. What a zoom or a pause means is said beneath."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.segmented_control(
            "Steps shown",
            list(WINDOWS),
            default=_WHOLE,
            required=True,
            key=f"{place}/window",
            label_visibility="collapsed",
            on_change=_unzoom,
            args=(place,),
        )
        st.segmented_control(
            "Axis",
            list(_ALONG),
            default=XAxis.STEP,
            required=True,
            key=f"{place}/along",
            label_visibility="collapsed",
            format_func=_ALONG.__getitem__,
        )
        if pause:
            _pause(place, newest)
        shown = current(place, newest)
        if shown.zoom is not None:
            st.button(
                "Whole range",
                key=f"{place}/whole",
                icon=":material/zoom_out:",
                on_click=_unzoom,
                args=(place, True),
                help="Or click twice into a chart.",
            )
    if shown.paused_at is not None:
        behind = newest - shown.paused_at
        st.info(
            f"The charts stand still at step {shown.paused_at:,}. "
            + (f"The run is {behind:,} steps further." if behind > 0 else "The run has not gone further."),
            icon=":material/ac_unit:",
        )
    elif shown.zoom is not None:
        st.caption(f"Steps {shown.zoom[0]:,} to {shown.zoom[1]:,}, read anew at this zoom. The charts do not move on.")
    return shown


def axis(
    place: str,
    now: Viewport,
    series: Iterable[Series],
    began: float,
    *,
    of: str = _FIRST,
    unit: tuple[str, float] | None = None,
) -> Axis:
    """The axis of `series`. Within a zoom, what the whole told of times is still known, so that one can leave it."""
    kept = f"{place}/axis/{of}"
    known: Axis | None = st.session_state.get(kept) if now.zoom else None
    made = Axis.of(now.along, series, began, st.context.timezone, unit=unit, known=known)
    if now.zoom is None:
        st.session_state[kept] = made
    return made


def follow(place: str, gesture: Gesture, axes: Mapping[str, Axis] | Axis) -> None:
    """Read what was zoomed into anew, with as many points as the whole had. axes: by run, where there are several."""
    if gesture.unzoomed:
        if st.session_state.pop(f"{place}/zoom", None):
            st.rerun(scope="fragment")
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
    """Show the steps first..last, read anew."""
    _zoom(place, {_FIRST: (first, last)})


def aim(place: str, first: int, last: int) -> None:
    """The same from another page: when the charts are drawn next."""
    st.session_state[f"{place}/zoom"] = {_FIRST: (max(0, first), max(0, last))}


def _zoom(place: str, ranges: Mapping[str, tuple[int, int]]) -> None:
    wanted = {of: (max(0, first), max(0, last)) for of, (first, last) in ranges.items()}
    if st.session_state.get(f"{place}/zoom") != wanted:
        st.session_state[f"{place}/zoom"] = wanted
        st.rerun(scope="fragment")


def _pause(place: str, newest: int) -> None:
    paused = f"{place}/paused at" in st.session_state
    st.button(
        "Follow" if paused else "Freeze charts",
        key=f"{place}/freeze",
        icon=":material/autorenew:" if paused else ":material/ac_unit:",
        on_click=_toggle,
        args=(place, newest),
        help="Only what is drawn stands still: the training goes on, and numbers and settings stay live.",
    )


def _toggle(place: str, newest: int) -> None:
    if st.session_state.pop(f"{place}/paused at", None) is None:
        st.session_state[f"{place}/paused at"] = newest


def _unzoom(place: str, again: bool = False) -> None:
    """again: the charts forget what was done to them, too."""
    st.session_state.pop(f"{place}/zoom", None)
    if again:
        st.session_state[f"{place}/drawn anew"] = st.session_state.get(f"{place}/drawn anew", 0) + 1
