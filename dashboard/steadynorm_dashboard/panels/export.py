"""The files that a run's history can be had as: two links, each good for one download."""

from __future__ import annotations

import streamlit as st

from steadynorm_dashboard.data import session
from steadynorm_dashboard.data.downloads import PATH, TICKETS, Table, Ticket

__all__ = ["panel"]

_TABLES: dict[Table, tuple[str, str]] = {
    "steps": (
        "History by step",
        "Parquet: a row a step, with loss, norms, learning rate, smallest target, spikes.",
    ),
    "parameters": ("History by parameter", "Parquet: a row for each parameter at each step that was recorded."),
}
_STILL_GOOD_S = 20.0
"""A link is replaced before it is too old, and after it was used, at the page's next refresh."""


def panel(run_id: str) -> None:
    """For anybody who may look at the run."""
    st.caption("The whole history, each step once, as fine as it is still known. A link is good for one download.")
    with st.container(horizontal=True, gap="small"):
        for table, (label, words) in _TABLES.items():
            if name := _ticket(run_id, table):
                link = PATH.lstrip("/").format(ticket=name)
                st.link_button(label, link, icon=":material/download:", help=words)
    st.caption(f"`steadynorm export {run_id}` writes the same file without a browser.")


def _ticket(run_id: str, table: Table) -> str | None:
    """The one that the page shows already, while it is good; else a new one."""
    client = session.client()
    if client is None:
        return None
    key = f"{run_id}/export/{table}"
    held: tuple[object, str] | None = st.session_state.get(key)
    if held is not None and held[0] == session.identity() and TICKETS.good(held[1], _STILL_GOOD_S):
        return held[1]
    name = TICKETS.make(Ticket(client, run_id, table))
    st.session_state[key] = (session.identity(), name)
    return name
