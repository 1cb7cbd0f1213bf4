"""Alert runbook: what to do when an alert fires, as commands to copy and as buttons.

Alerts link here; the page needs no token. With one, and a run in the link, its remedies are buttons.
"""

from __future__ import annotations

import streamlit as st

from steadynorm_contract.runs import RunDetail
from steadynorm_dashboard import navigation, runbook
from steadynorm_dashboard.data import queries, session
from steadynorm_dashboard.formatting import escaping, numbers
from steadynorm_dashboard.panels import page_header, remedy


def render(alert: str, run_id: str | None = None) -> None:
    """The page."""
    page_header.bar(back=True, run_id=run_id)
    items = runbook.items(alert, run_id)
    if not items:
        st.error(f"There is no alert named {escaping.markdown(alert)}. All alerts:", icon=":material/search_off:")
    else:
        run = _run(run_id)
        st.caption(f"Alert runbook · run {escaping.markdown(run.name)}" if run else "Alert runbook")
        st.title(alert, anchor=False)
        with st.container(width=800):
            for at, item in enumerate(items):
                st.markdown(item.text)
                for command in item.commands:
                    _command(run, command, f"runbook/{alert}/{at}/{command}")
        st.caption("Other alerts")
    for title in runbook.titles():
        if title != alert:
            navigation.link(title, **{"runbook": title, **({"run": run_id} if run_id else {})})


def _run(run_id: str | None) -> RunDetail | None:
    """The run that the alert is about; None where it cannot be read."""
    if run_id is None or session.client() is None:
        return None
    run, _ = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    return run


def _command(run: RunDetail | None, command: str, place: str) -> None:
    """A command to copy and, where it is a change of settings, a button for it."""
    changes = runbook.changes_of(command)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.code(command, language="shell", wrap_lines=True)
        if run is not None and changes:
            remedy.change(run, changes, _label(changes), place)


def _label(changes: dict[str, object]) -> str:
    if changes == remedy.RESET:
        return "Reset statistics"
    if changes == {"paused": False}:
        return "Resume training"
    if changes == {"stop": True}:
        return "Stop training"
    return "Set " + ", ".join(f"{name} {numbers.setting(value)}" for name, value in changes.items())
