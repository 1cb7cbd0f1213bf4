"""Proposed changes on a run's page: what, by whom and why; approved or refused with a reason."""

from __future__ import annotations

import time
from functools import partial

import streamlit as st

from steadynorm_contract.proposals import Proposal, ProposalState
from steadynorm_dashboard.components import inputs
from steadynorm_dashboard.data import queries, session
from steadynorm_dashboard.formatting import changes as change_text
from steadynorm_dashboard.formatting import escaping, numbers
from steadynorm_dashboard.panels import messages, writes

_SHOWN = 5


@st.fragment(run_every=3)
def panel(run_id: str) -> None:
    """The open proposals; nothing where there is none."""
    run, _ = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    if run is None or not run.state.is_live:
        return
    known, _ = queries.fetch(f"{run_id}/proposals", lambda client: client.proposals(run_id))
    waiting = [each for each in known.proposals if each.state is ProposalState.OPEN] if known else []
    writing = f"{run_id}/proposals/write"
    writes.collect(writing)
    message = st.session_state.get(f"{run_id}/proposals/message")
    if not waiting and not message:
        return
    st.header("Proposed changes", anchor=False)
    if message:
        st.warning(message)
    for each in waiting[:_SHOWN]:
        _card(run_id, each, known.revision if known else each.revision, writing)
    writes.follow(writing)
    if len(waiting) > _SHOWN:
        st.caption(f"{len(waiting) - _SHOWN} older ones are open too.")


def _card(run_id: str, proposal: Proposal, revision: int, writing: str) -> None:
    locked, outdated = session.read_only(), proposal.revision != revision
    with st.container(border=True, gap="xxsmall"):
        st.markdown(f"**{escaping.markdown(change_text.assignments(proposal.settings), 300)}**")
        when = numbers.moment(proposal.proposed_at, time.time(), st.context.timezone)
        st.caption(f"{escaping.markdown(proposal.proposed_by, 60)} · {when}")
        st.markdown(escaping.markdown(proposal.reason, 500) or "*no reason given*")
        if outdated:
            st.caption(f"It is based on r{proposal.revision}, and the settings are at r{revision}: it can be refused.")
        key = f"{run_id}/proposals/{proposal.id}"
        reason = st.text_input(
            "Reason for the decision",
            value=inputs.value(f"{key}/reason", ""),
            key=inputs.key(f"{key}/reason"),
            placeholder="recorded in the audit log",
            max_chars=200,
            disabled=locked,
        )
        busy = writes.is_busy(writing)
        with st.container(horizontal=True, gap="xsmall"):
            for approve, label in ((True, "Approve"), (False, "Refuse")):
                st.button(
                    label,
                    key=f"{key}/{label}",
                    type="primary" if approve else "secondary",
                    disabled=locked or busy or (approve and outdated),
                    help=session.read_only_reason() if locked else None,
                    on_click=_send,
                    args=(run_id, proposal, approve, reason),
                )


def _send(run_id: str, proposal: Proposal, approve: bool, reason: str) -> None:
    client = session.client()
    if client is None:
        return
    writes.start(
        f"{run_id}/proposals/write",
        lambda: client.decide(run_id, proposal.id, approve=approve, revision=proposal.revision, reason=reason),
        partial(_sent, run_id),
    )


def _sent(run_id: str, answer: object) -> None:
    st.session_state[f"{run_id}/proposals/message"] = messages.outcome(answer)
