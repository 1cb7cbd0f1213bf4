"""What every page has on top, and small parts that pages share."""

from __future__ import annotations

from typing import cast

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from steadynorm_dashboard import session, text
from steadynorm_dashboard.status import Status

__all__ = ["PAGE", "badge", "bar", "link"]

PAGE = "page"
"""Where `app` keeps the page that links lead to."""


def link(label: str, run_id: str | None = None, *, icon: str | None = None, help: str | None = None) -> None:  # noqa: A002
    """A link to a run, or to the list of all. `label` and `help` are Markdown."""
    page = cast("StreamlitPage", st.session_state[PAGE])
    st.page_link(page, label=label, icon=icon, help=help, query_params={"run": run_id} if run_id else {})


def bar(*, back: bool = False) -> None:
    """The name of the house, and which server this is."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        if back:
            link("all runs", icon=":material/arrow_back:")
        else:
            st.title("Runs", anchor=False, width="content")
        st.caption(f"steadynorm at {text.markdown(session.server())}", width="content")


def badge(status: Status) -> None:
    """A state as a word in its colour."""
    st.badge(status.word, icon=status.icon, color=status.color, help=status.help)
