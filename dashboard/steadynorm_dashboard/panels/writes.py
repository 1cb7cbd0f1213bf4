"""Sends a change from a page: says that it is at work, that its outcome is unknown, and then what came of it."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from steadynorm_dashboard.data.writes import Write
from steadynorm_dashboard.panels import quiet

_QUICK_S = 0.4
"""An answer within this time is there when the page is drawn next; the page follows a slower one."""

Finish = Callable[[object], None]
"""finish(answer): called with `Write.answer`."""


def start(key: str, request: Callable[[], object], finish: Finish) -> None:
    """Send `request`, which may not use the session state. key: one write at a time."""
    if key in st.session_state:
        return
    write = Write(request)
    st.session_state[key] = (write, finish)
    write.done.wait(_QUICK_S)
    collect(key)


def collect(key: str) -> None:
    """Hand over the answer if it is there. Called before the widgets are drawn, whose values may change."""
    held: tuple[Write, Finish] | None = st.session_state.get(key)
    if held is not None and held[0].done.is_set():
        del st.session_state[key]
        held[1](held[0].answer)


def is_busy(key: str) -> bool:
    """Whether a write is at work, or its outcome is unknown."""
    return key in st.session_state


def follow(key: str) -> None:
    """What the write at work does, if there is one. Draws the page again once its answer is there."""
    if is_busy(key):
        st.fragment(_follow, run_every=0.5)(key)


def _follow(key: str) -> None:
    held: tuple[Write, Finish] | None = st.session_state.get(key)
    if held is None:
        return
    write = held[0]
    quiet.awaits()
    if write.done.is_set():
        st.rerun()
    elif write.unknown is None:
        st.caption(":material/progress_activity: Sending…")
    else:
        st.warning(
            "The server did not answer. **It may still make this change.** This page checks the outcome as soon as "
            "the server answers; your input is kept.",
            icon=":material/help:",
        )
