"""Downloads of a run's history: links, each valid for one download."""

from __future__ import annotations

import streamlit as st

from steadynorm_dashboard.data import session
from steadynorm_dashboard.data.downloads import PATH, TICKETS, Table, Ticket

_TABLES: dict[Table, tuple[str, str]] = {
    "steps": (
        "History by step",
        "Parquet: one row per step, with loss, norms, learning rate, smallest target, spikes.",
    ),
    "parameters": ("History by parameter", "Parquet: one row for each parameter at each recorded step."),
    "scalars": ("Logged scalars", "Parquet: one row for each value that the loop logged under a name of its own."),
}
_RENEW_S = 20.0
"""A link is replaced this long before it expires, and after it was used, at the page's next refresh."""


def panel(run_id: str) -> None:
    """The links, for every visitor who can see the run."""
    st.caption("The whole history, each step once, at the finest stored resolution. A link is valid for one download.")
    with st.container(horizontal=True, gap="small"):
        for table, (label, contents) in _TABLES.items():
            if name := _ticket(run_id, table):
                link = PATH.lstrip("/").format(ticket=name)
                st.link_button(label, link, icon=":material/download:", help=contents)
    st.caption(f"`steadynorm export {run_id}` downloads the same file on the command line.")


def _ticket(run_id: str, table: Table) -> str | None:
    """The ticket that the page already shows while it is valid, else a new one."""
    client = session.client()
    if client is None:
        return None
    key = f"{run_id}/export/{table}"
    held: tuple[object, str] | None = st.session_state.get(key)
    if held is not None and held[0] == session.identity() and TICKETS.is_valid(held[1], _RENEW_S):
        return held[1]
    name = TICKETS.issue(Ticket(client, run_id, table))
    st.session_state[key] = (session.identity(), name)
    return name
