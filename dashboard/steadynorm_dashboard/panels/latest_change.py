"""The newest change in the settings panel: its state, and the settings that the run uses until it is applied."""

from __future__ import annotations

import time

import streamlit as st

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.runs import RevisionState, RunDetail
from steadynorm_contract.settings import by_name
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import changes, escaping, numbers, status
from steadynorm_dashboard.panels import page_header


def panel(run_id: str, *, pending: bool) -> None:
    """The newest change, live; refreshed more often while it is pending."""
    st.fragment(_panel, run_every=1 if pending else 3)(run_id)


def _panel(run_id: str) -> None:
    run, _ = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    audit, _ = queries.fetch(f"{run_id}/audit/newest", lambda client: client.audit(run_id, limit=1))
    if run is None or audit is None:
        return
    if not audit.entries:
        st.caption("Applied: the settings as registered.")
        return
    entry = audit.entries[0]
    with st.container(gap="xxsmall"):
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
            st.markdown(f"r{entry.revision}", width="content")
            badge(entry)
        st.caption(
            f"{escaping.markdown(changes.change_words(entry), 200)} · {escaping.markdown(entry.actor, 60)} · "
            f"{numbers.moment(entry.time, time.time(), st.context.timezone)}"
        )
        if differs := running_settings(run):
            st.markdown(f":orange[:material/warning: running: **{escaping.markdown(differs, 300)}**]")


def badge(entry: AuditEntry) -> None:
    """The state of a change as a word in its color; what the agent says of it is shown beneath."""
    state = status.revision(entry.state)
    rejected = entry.state is RevisionState.REJECTED
    words = state.word if rejected else status.revision_words(entry)
    page_header.badge(status.Status(escaping.badge(words), state.color, state.icon, state.help))
    if said := (entry.rejection or "no reason given") if rejected else entry.remark:
        st.caption(escaping.markdown(said, 300))


def running_settings(run: RunDetail) -> str:
    """The applied settings that differ from the desired ones: `lr_scale 1, spike_limit off (r0)`. Not escaped."""
    if run.desired.revision == run.applied.revision:
        return ""
    desired, now = by_name(run.desired.settings), by_name(run.applied.settings)
    differs = [f"{name} {numbers.setting(now[name])}" for name in now if name in desired and now[name] != desired[name]]
    return f"{', '.join(differs) or 'the same values'} (r{run.applied.revision})"
