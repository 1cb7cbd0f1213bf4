"""What every page has on top, and small parts that pages share."""

from __future__ import annotations

from typing import cast

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from steadynorm_dashboard import session, text
from steadynorm_dashboard.status import Status

__all__ = ["badge", "bar", "page"]


def page(name: str) -> StreamlitPage:
    """A page of the app, as `app` made it."""
    return cast("dict[str, StreamlitPage]", st.session_state["pages"])[name]


def bar(*, back: bool = False) -> None:
    """The name of the house, and which server this is."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        if back:
            st.page_link(page("runs"), label="all runs", icon=":material/arrow_back:")
        else:
            st.title("Runs", anchor=False, width="content")
        st.caption(f"steadynorm at {text.markdown(session.server())}", width="content")


def badge(status: Status) -> None:
    """A state as a word in its colour."""
    st.badge(status.word, icon=status.icon, color=status.color, help=status.help)
