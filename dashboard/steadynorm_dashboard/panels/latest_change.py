"""Whether the newest change took effect, told where it is made: its state, and what the run does meanwhile."""

from __future__ import annotations

import time

import msgspec
import streamlit as st

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.runs import RevisionState, RunDetail
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import changes, escaping, numbers, status
from steadynorm_dashboard.panels import page_header

__all__ = ["badge", "note", "running"]


def note(run_id: str, *, pending: bool) -> None:
    """The newest change, live. pending: the run has not taken it up yet; one looks more often then."""
    st.fragment(_note, run_every=1 if pending else 3)(run_id)


def _note(run_id: str) -> None:
    run, _ = queries.read(f"{run_id}/run", lambda client: client.run(run_id))
    audit, _ = queries.read(f"{run_id}/audit/newest", lambda client: client.audit(run_id, limit=1))
    if run is None or audit is None:
        return
    if not audit.entries:
        st.caption("In force: the settings as registered.")
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
        if differs := running(run):
            st.markdown(f":orange[:material/warning: running: **{escaping.markdown(differs, 300)}**]")


def badge(entry: AuditEntry) -> None:
    """What became of a change, as a word in its colour; why it was refused stands beneath."""
    look = status.revision(entry.state)
    refused = entry.state is RevisionState.REJECTED
    words = look.word if refused else status.revision_words(entry)
    page_header.badge(status.Status(escaping.badge(words), look.color, look.icon, look.help))
    if refused:
        st.caption(escaping.markdown(entry.rejection or "no reason given", 300))


def running(run: RunDetail) -> str:
    """What the run does where its newest settings are not in force: `lr_scale 1, spike_limit off (r0)`. Not escaped."""
    if run.desired.revision == run.applied.revision:
        return ""
    wanted, now = msgspec.structs.asdict(run.desired.settings), msgspec.structs.asdict(run.applied.settings)
    differs = [f"{name} {numbers.setting(now[name])}" for name in now if now[name] != wanted[name]]
    return f"{', '.join(differs) or 'the same values'} (r{run.applied.revision})"
