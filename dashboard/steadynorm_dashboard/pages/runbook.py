"""Alert runbook: what to do when an alert fires. Alerts link here; the page needs no token."""

from __future__ import annotations

import streamlit as st

from steadynorm_dashboard import navigation, runbook
from steadynorm_dashboard.formatting import escaping
from steadynorm_dashboard.panels import page_header


def render(alert: str, run_id: str | None = None) -> None:
    """The page."""
    page_header.bar(back=True, run_id=run_id, sign_in=False)
    section = runbook.find(alert, run_id)
    if section is None:
        st.error(f"There is no alert named {escaping.markdown(alert)}. All alerts:", icon=":material/search_off:")
    else:
        st.caption("Alert runbook")
        st.title(alert, anchor=False)
        with st.container(width=800):
            st.markdown(section)
        st.caption("Other alerts")
    for title in runbook.titles():
        if title != alert:
            navigation.link(title, **{"runbook": title, **({"run": run_id} if run_id else {})})
