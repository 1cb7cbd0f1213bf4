"""What to do when an alert fires: where the links of alerts lead. Says nothing that needs a token."""

from __future__ import annotations

import streamlit as st

from steadynorm_dashboard import navigation, runbook
from steadynorm_dashboard.formatting import escaping
from steadynorm_dashboard.panels import page_header

__all__ = ["render"]


def render(alert: str, run_id: str | None = None) -> None:
    """The page."""
    page_header.bar(back=not run_id, run_id=run_id)
    section = runbook.find(alert, run_id)
    if section is None:
        st.error(f"There is no alert called {escaping.markdown(alert)}. These are all:", icon=":material/search_off:")
    else:
        st.title(alert, anchor=False)
        with st.container(width=800):
            st.markdown(section)
        st.caption("The other alerts")
    for title in runbook.titles():
        if title != alert:
            navigation.link(title, **{"runbook": title, **({"run": run_id} if run_id else {})})
