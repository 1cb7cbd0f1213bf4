"""Pages as queries of one address, so that every page can be linked to.

?run=ID                     one run
?run=ID&parameter=NAME      one of its parameters
?run=ID&incident=EVENT      one incident, by the event's id
?run=ID&change=REVISION     one change of its settings
?compare=ID,ID              several runs in one figure
?runbook=ALERT&run=ID       what to do when an alert fires; alerts link here
"""

from __future__ import annotations

from typing import cast
from urllib.parse import urlencode, urlsplit

import streamlit as st
from streamlit.navigation.page import StreamlitPage

PAGE = "page"
"""The key of the session state under which `app` stores Streamlit's page."""


def link(
    label: str,
    *,
    icon: str | None = None,
    help: str | None = None,  # noqa: A002
    **query: str,
) -> None:
    """A link to the page of `query`; without one, to the runs overview. `label` and `help` are Markdown."""
    page = cast("StreamlitPage", st.session_state[PAGE])
    st.page_link(page, label=label, icon=icon, help=help, query_params=query)


def open_page(**query: str) -> None:
    """Switch to the page of `query` at once; the rest of the current page is not drawn."""
    st.switch_page(cast("StreamlitPage", st.session_state[PAGE]), query_params=query)


def url(**query: str) -> str:
    """The address of the page of `query`, to share. It contains no token: readers use their own."""
    here = urlsplit(st.context.url or "")
    origin = f"{here.scheme}://{here.netloc}" if here.netloc else ""
    return f"{origin}/?{urlencode(query, safe=',')}"
