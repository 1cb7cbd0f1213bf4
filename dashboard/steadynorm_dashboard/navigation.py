"""Pages as queries of one address, so that every page can be linked to.

?run=ID                     one run; ?run=NAME leads to the newest run of that name
?run=ID&parameter=NAME      one of its parameters
?run=ID&incident=EVENT      one incident, by the event's id
?run=ID&change=REVISION     one change of its settings
?compare=ID,ID              several runs in one figure
?runbook=ALERT&run=ID       what to do when an alert fires; alerts link here

What is seen on a page (range, filters, tab) follows in the same query, see `data.view`. A link within the dashboard
leads to what its reader last saw there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import cast
from urllib.parse import urlencode, urlsplit

import streamlit as st
from streamlit.errors import StreamlitAPIException
from streamlit.navigation.page import StreamlitPage

PAGE = "page"
"""The key of the session state under which `app` stores Streamlit's page."""
PAGES = ("run", "parameter", "incident", "change", "compare", "runbook")
"""The parts of a query that say which page it is."""
VIEW = (
    *("search", "show", "health", "tag", "group", "column", "sort"),  # of the runs overview
    *("range", "axis", "zoom", "map", "tab", "find", "smoothing", "logx", "logy", "bands"),  # of a run, a comparison
    *("pinned", "scalars", "top", "order"),  # charts on top, those of logged scalars, a table's sort
    *("signal", "baseline"),  # of a comparison
)
"""The parts of a query that say what is seen on the page."""
_SEEN = "navigation/seen"  # by page, what its visitor last saw there: the rest of the query
_ADDRESS = "navigation/address"

Query = Mapping[str, str | Sequence[str]]


def seen(page: Query) -> dict[str, list[str]]:
    """What the visitor last saw on a page, as parts of its query."""
    known: dict[tuple[tuple[str, str], ...], dict[str, list[str]]] = st.session_state.get(_SEEN, {})
    return known.get(_name(page), {})


def remember(page: Query, view: Mapping[str, Sequence[str]]) -> None:
    """What the visitor sees on a page now."""
    st.session_state.setdefault(_SEEN, {})[_name(page)] = {name: list(values) for name, values in view.items()}


def _name(page: Query) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(value)) for name, value in page.items() if name in PAGES))


def write_address(query: Query) -> None:
    """Put `query` into the browser's address, unless it is what this session last put there.

    A response that only repeats the address may reach the browser after its visitor went back, and would undo that.
    """
    if st.session_state.get(_ADDRESS) != query:
        st.session_state[_ADDRESS] = query
        st.query_params.from_dict(query)


def link(
    label: str,
    *,
    icon: str | None = None,
    help: str | None = None,  # noqa: A002
    **query: str,
) -> None:
    """A link to the page of `query`; without one, to the runs overview. `label` and `help` are Markdown."""
    page = cast("StreamlitPage", st.session_state[PAGE])
    st.page_link(page, label=label, icon=icon, help=help, query_params={**seen(query), **query})


def open_page(**query: str) -> None:
    """Switch to the page of `query` at once; the rest of the current page is not drawn."""
    page = cast("StreamlitPage", st.session_state[PAGE])
    st.switch_page(page, query_params={**seen(query), **query})


def rerun_fragment() -> None:
    """Draw the current fragment again at once, or the whole page if the fragment is being drawn as a part of it."""
    try:
        st.rerun(scope="fragment")
    except StreamlitAPIException:  # a click in a chart may arrive together with a request for the whole page
        st.rerun()


def url(**query: str) -> str:
    """The address of the page of `query`, to share. It contains no token: readers use their own."""
    return f"{_home()}/?{urlencode(query, safe=',')}"


def _home() -> str:
    """Where people reach the dashboard: `$STEADYNORM_DASHBOARD_URL`, else where this visitor did."""
    if public := os.environ.get("STEADYNORM_DASHBOARD_URL"):
        return public.rstrip("/")
    here, base = urlsplit(st.context.url or ""), str(st.get_option("server.baseUrlPath") or "").strip("/")
    origin = f"{here.scheme}://{here.netloc}" if here.netloc else ""
    return f"{origin}/{base}" if base else origin
