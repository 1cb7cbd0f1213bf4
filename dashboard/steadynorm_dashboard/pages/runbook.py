"""What to do when an alert fires: where the links of alerts lead. Says nothing that needs a token."""

from __future__ import annotations

import streamlit as st

from steadynorm_dashboard import header, route, runbook, text

__all__ = ["render"]


def render(alert: str, run_id: str | None = None) -> None:
    """The page."""
    header.bar(back=not run_id, run_id=run_id)
    section = runbook.find(alert, run_id)
    if section is None:
        st.error(f"There is no alert called {text.markdown(alert)}. These are all:", icon=":material/search_off:")
    else:
        st.title(alert, anchor=False)
        with st.container(width=800):
            st.markdown(section)
        st.caption("The other alerts")
    for title in runbook.titles():
        if title != alert:
            route.link(title, **{"runbook": title, **({"run": run_id} if run_id else {})})
