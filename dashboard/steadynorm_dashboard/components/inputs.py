"""Inputs that the program fills in, too.

Streamlit sends a value that was put into the session state of a widget with one response only. Where the next response
overtakes that one, the browser draws the widget with its default, 0 or nothing, and reports that as if somebody had
typed it. So the value lies under a name of its own, of no widget. The widget starts with it, and one with another key
takes its place whenever the program sets it:

    inputs.put("run/eps", 1e-12)
    st.number_input("eps", value=inputs.value("run/eps"), key=inputs.key("run/eps"))
"""

from __future__ import annotations

from typing import Any

import streamlit as st


def put(name: str, new: object) -> None:
    """Show `new` in the input `name`."""
    if name in st.session_state:
        if value(name) == new:
            return
        st.session_state[_generation(name)] = st.session_state.get(_generation(name), 0) + 1
    st.session_state[name] = new


def value(name: str, first: Any = None) -> Any:
    """What was put or typed last, also on a page that was left meanwhile; `first` before that."""
    if key(name) in st.session_state:
        st.session_state[name] = st.session_state[key(name)]
    return st.session_state.setdefault(name, first)


def key(name: str) -> str:
    """The key of the widget that stands for `name` now. Late reports of one that was replaced are ignored."""
    return f"{name}/input/{st.session_state.get(_generation(name), 0)}"


def _generation(name: str) -> str:
    return f"{name}/generation"
