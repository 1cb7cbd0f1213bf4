"""The dashboard's entry point, which Streamlit runs for every visitor: sign-in by link, and the way to each page."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from steadynorm_dashboard import session
from steadynorm_dashboard.pages import run, runs

ICON = Path(__file__).with_name("icon.svg")  # a Material icon would be fetched from a foreign host

st.set_page_config(page_title="steadynorm", page_icon=str(ICON), layout="wide")
session.take_token_from_link()

runs_page = st.Page(runs.render, title="steadynorm", url_path="runs", default=True)
run_page = st.Page(run.render, title="run · steadynorm", url_path="run")
current = st.navigation([runs_page, run_page], position="hidden")
st.session_state["pages"] = {"runs": runs_page, "run": run_page}

if current == runs_page and (run_id := st.query_params.get("run")):
    st.switch_page(run_page, query_params={"run": run_id})  # `/?run=…` is what people shorten the link to
current.run()
