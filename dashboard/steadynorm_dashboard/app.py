"""The script that Streamlit runs for every visitor: takes a token from a link and shows the page of the address."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from steadynorm_dashboard import navigation
from steadynorm_dashboard.components import background_tab
from steadynorm_dashboard.data import session, view
from steadynorm_dashboard.pages import change, compare, incident, parameter, run, runbook, runs
from steadynorm_dashboard.panels import messages, page_header, page_title, quiet

STYLE = Path(__file__).with_name("style.css")

query = {name: value for name in navigation.PAGES if (value := st.query_params.get(name))}
title = page_title.start(query)
st.html(STYLE)
session.take_token_from_link()


def show() -> None:
    """The page in the address, else the runs overview."""
    seen = {name: texts for name in navigation.VIEW if (texts := st.query_params.get_all(name))}
    if not view.is_late(query, seen):
        # A link within one page does not update the browser's address by itself.
        navigation.write_address({**query, **seen})
    quiet.nothing()
    if not query.keys().isdisjoint(("incident", "change", "runbook")):  # a page that has no view
        view.close_page()
    match query:
        case {"runbook": alert}:
            runbook.render(alert, query.get("run"))
        case _ if session.client() is None:
            # Not `st.stop`: a script that stops keeps the fragments of the page before, and one that the browser
            # has already requested would draw itself into this page.
            page_header.bar()
            messages.sign_in()
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
    page_title.show_part(query)
    if session.client() is not None:  # else nothing is refreshed
        background_tab.watch()


# One page, with the run in the query: with a path of its own (`/run?run=…`) the browser would first request Streamlit's
# files below that path and log an error for each.
page = st.Page(show, title=title, default=True)
st.session_state[navigation.PAGE] = page
st.navigation([page], position="hidden").run()
