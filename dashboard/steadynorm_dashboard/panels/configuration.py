"""What a run was started with: the user's configuration, and what its process found by itself."""

from __future__ import annotations

import streamlit as st

from steadynorm_contract.configuration import flattened
from steadynorm_dashboard.components.data_table import data_table
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import escaping
from steadynorm_dashboard.panels import messages


def tab(run_id: str) -> None:
    """Two tables, of which a search shows the matching rows."""
    found, error = queries.fetch(f"{run_id}/configuration", lambda client: client.configuration(run_id), share="newest")
    if found is None:
        messages.show_error(error)
        return
    words = st.text_input(
        "Search configuration",
        placeholder="Search by name or value",
        label_visibility="collapsed",
        key=f"{run_id}/configuration/search",
        width=320,
    )
    wanted = (words or "").lower().split()
    for title, pairs, empty in (
        (
            "Configuration",
            list(flattened(found.config)) if found.config else [],
            "The run was attached without one: `steadynorm.attach(..., config={...})`.",
        ),
        ("Environment", list(found.environment.items()), "Its agent tells nothing about its environment."),
    ):
        st.subheader(title, anchor=False)
        rows = [
            {"name": escaping.visible(name, 200), "value": escaping.visible(value, 1000)}
            for name, value in pairs
            if all(word in f"{name}={value}".lower() for word in wanted)
        ]
        if rows:
            data_table(rows, key=f"{run_id}/configuration/{title}", name=title, sortable=("name", "value"))
        else:
            st.caption("No entry matches." if pairs else empty)
