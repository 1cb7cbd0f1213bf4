"""The script that Streamlit runs for every visitor: takes a token from a link and shows the page of the address."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from steadynorm_dashboard import navigation
from steadynorm_dashboard.data import session
from steadynorm_dashboard.pages import change, compare, incident, parameter, run, runbook, runs

ICON = Path(__file__).with_name("icon.svg")  # a Material icon would be loaded from an external host

st.set_page_config(page_title="steadynorm", page_icon=str(ICON), layout="wide")
session.take_token_from_link()


def show() -> None:
    """The page in the address, else the runs overview."""
    names = ("run", "parameter", "incident", "change", "compare", "runbook")
    query = {name: value for name in names if (value := st.query_params.get(name))}
    # A link within one page does not update the browser's address by itself.
    st.query_params.from_dict(query)
    match query:
        case {"runbook": alert}:
            runbook.render(alert, query.get("run"))
        case {"run": run_id, "parameter": name}:
            parameter.render(run_id, name)
        case {"run": run_id, "incident": event_id}:
            incident.render(run_id, event_id)
        case {"run": run_id, "change": revision}:
            change.render(run_id, revision)
        case {"compare": run_ids}:
            compare.render(run_ids)
        case {"run": run_id}:
            run.render(run_id)
        case _:
            runs.render()


# One page, with the run in the query: with a path of its own (`/run?run=…`) the browser would first request Streamlit's
# files below that path and log an error for each.
page = st.Page(show, title="steadynorm", default=True)
st.session_state[navigation.PAGE] = page
st.navigation([page], position="hidden").run()
