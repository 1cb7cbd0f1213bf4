"""The dashboard's entry point, which Streamlit runs for every visitor: sign-in by link, and the way to each page."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from steadynorm_dashboard import header, session
from steadynorm_dashboard.pages import run, runs

ICON = Path(__file__).with_name("icon.svg")  # a Material icon would be fetched from a foreign host

st.set_page_config(page_title="steadynorm", page_icon=str(ICON), layout="wide")
session.take_token_from_link()


def show() -> None:
    """The run that the address names, else the list of all."""
    if run_id := st.query_params.get("run"):
        st.query_params["run"] = run_id  # a link within one page does not move the browser's address; this does
        run.render(run_id)
    else:
        st.query_params.clear()
        runs.render()


# One page with the run in the query, so that `/?run=…` is the whole of a link. A path of its own (`/run?run=…`) would
# make the browser ask for Streamlit's files below that path first, and log an error for each.
page = st.Page(show, title="steadynorm", default=True)
st.session_state[header.PAGE] = page
st.navigation([page], position="hidden").run()
