"""Where a visitor is and how they go elsewhere: each page is a query, so that the address is the whole of a link.

?run=ID                     one run
?run=ID&parameter=NAME      one of its parameters
?run=ID&incident=EVENT      one incident, by the event's id
?run=ID&change=REVISION     one change of its settings
?compare=ID,ID              runs over each other
?runbook=ALERT&run=ID       what to do when an alert fires, where its links lead
"""

from __future__ import annotations

from typing import cast
from urllib.parse import urlencode, urlsplit

import streamlit as st
from streamlit.navigation.page import StreamlitPage

__all__ = ["PAGE", "address", "go", "link"]

PAGE = "page"
"""Where `app` keeps the page that links lead to."""


def link(
    label: str,
    *,
    icon: str | None = None,
    help: str | None = None,  # noqa: A002
    **query: str,
) -> None:
    """A link to the page of `query`; to the list of all runs without one. `label` and `help` are Markdown."""
    page = cast("StreamlitPage", st.session_state[PAGE])
    st.page_link(page, label=label, icon=icon, help=help, query_params=query)


def go(**query: str) -> None:
    """Leave for the page of `query`, at once: what follows in this run is not drawn."""
    st.switch_page(cast("StreamlitPage", st.session_state[PAGE]), query_params=query)


def address(**query: str) -> str:
    """The page of `query` as a link that can be sent to somebody. It holds no token: the reader brings their own."""
    here = urlsplit(st.context.url or "")
    front = f"{here.scheme}://{here.netloc}" if here.netloc else ""
    return f"{front}/?{urlencode(query, safe=',')}"
