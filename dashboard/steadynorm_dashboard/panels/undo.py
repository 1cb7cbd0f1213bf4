"""Reverts to the settings of an earlier revision: shows what differs, takes a reason, and sends a normal change."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import streamlit as st

from steadynorm_contract.audit import AuditEntry, revert_to
from steadynorm_contract.runs import RunDetail
from steadynorm_contract.settings import by_name
from steadynorm_dashboard.components import inputs
from steadynorm_dashboard.data import session
from steadynorm_dashboard.formatting import changes as change_text
from steadynorm_dashboard.panels import messages, writes


def panel(run: RunDetail, entries: Sequence[AuditEntry]) -> None:
    """Choose a revision, see what differs, give a reason, revert."""
    revisions = [entry.revision for entry in entries if entry.revision < run.desired.revision]
    if not entries or entries[0].revision != run.desired.revision:
        return  # the run and the audit log were read at different moments
    if entries[-1].revision == 1:
        revisions.append(0)
    if not revisions or not run.state.is_live:
        return
    locked = session.read_only()
    with st.expander("Undo", icon=":material/undo:"):
        if locked:
            st.info(session.read_only_reason(), icon=":material/lock:")
        writing = f"{run.run_id}/undo/write"
        writes.collect(writing)
        which, why, go = st.columns([1, 2, 0.8], vertical_alignment="bottom")
        revision = which.selectbox(
            "Back to",
            revisions,
            # A new box for each newest change, which is the one to undo: with one box for all, a value that the
            # browser sent before the change would look like an operator's choice of another revision.
            key=f"{run.run_id}/undo/revision/{run.desired.revision}",
            format_func=lambda at: f"r{at}" if at else "as registered",
            disabled=locked,
        )
        changes = revert_to(revision, run.desired.settings, entries)
        reason = why.text_input(
            "Reason",
            value=inputs.value(f"{run.run_id}/undo/reason", ""),
            key=inputs.key(f"{run.run_id}/undo/reason"),
            placeholder="recorded in the audit log",
            max_chars=400,
            disabled=locked,
        )
        go.button(
            "Undo",
            key=f"{run.run_id}/undo/go",
            type="primary",
            width="stretch",
            disabled=locked or not changes or writes.is_busy(writing),
            on_click=_send,
            args=(run.run_id, run.desired.revision, revision, changes, reason),
        )
        writes.follow(writing)
        if changes is None:
            st.caption("The stored audit log does not reach back that far. Set the values in the panel instead.")
        elif not changes:
            st.caption("The settings are already the same.")
        else:
            st.markdown(change_text.change_lines(by_name(run.desired.settings), changes.items()))
        if message := st.session_state.get(f"{run.run_id}/undo/message"):
            st.warning(message)


def _send(run_id: str, revision: int, earlier: int, changes: dict[str, object], reason: str) -> None:
    client = session.client()
    if client is None:
        return
    back = f"back to r{earlier}" if earlier else "back to the settings as registered"
    why = f"{back}: {reason}" if reason else back
    writes.start(
        f"{run_id}/undo/write",
        lambda: client.change(run_id, changes, revision=revision, reason=why),
        partial(_sent, run_id),
    )


def _sent(run_id: str, answer: object) -> None:
    message = messages.outcome(answer)
    if message is None and not isinstance(answer, Exception):
        inputs.put(f"{run_id}/undo/reason", "")
    st.session_state[f"{run_id}/undo/message"] = message  # shown until the next attempt
