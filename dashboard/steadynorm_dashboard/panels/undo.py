"""Back to the settings of an earlier revision: what differs, why, and one button. It is a change like any other."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import streamlit as st

from steadynorm_contract.audit import AuditEntry, revert_to
from steadynorm_contract.client import ClientError, Conflict, Forbidden, Unauthorized
from steadynorm_contract.runs import RunDetail, RunState
from steadynorm_dashboard.data import session
from steadynorm_dashboard.formatting import escaping, numbers

__all__ = ["panel"]

_LIVE = (RunState.RUNNING, RunState.STALLED)


def panel(run: RunDetail, entries: Sequence[AuditEntry]) -> None:
    """Choose a revision, see what differs, say why, go."""
    revisions = [entry.revision for entry in entries if entry.revision < run.desired.revision]
    if not entries or entries[0].revision != run.desired.revision:
        return  # the two were read at different moments
    if entries[-1].revision == 1:
        revisions.append(0)
    if not revisions or run.state not in _LIVE:
        return
    locked = session.read_only()
    with st.expander("Undo", icon=":material/undo:"):
        if locked:
            st.info(session.why_locked(), icon=":material/lock:")
        which, why, go = st.columns([1, 2, 0.8], vertical_alignment="bottom")
        revision = which.selectbox(
            "Back to",
            revisions,
            # Another box for each newest change, which is the one to undo. Were one box told to choose it, a value that
            # the browser sent before would look like an operator's choice of another revision.
            key=f"{run.run_id}/undo/revision/{run.desired.revision}",
            format_func=lambda at: f"r{at}" if at else "as registered",
            disabled=locked,
        )
        changes = revert_to(revision, run.desired.settings, entries)
        reason = why.text_input(
            "Why",
            key=f"{run.run_id}/undo/reason",
            placeholder="for the audit list",
            max_chars=400,
            disabled=locked,
        )
        go.button(
            "Undo",
            key=f"{run.run_id}/undo/go",
            type="primary",
            width="stretch",
            disabled=locked or not changes,
            on_click=_send,
            args=(run.run_id, run.desired.revision, revision, changes, reason),
        )
        if changes is None:
            st.caption("The list of changes does not reach back that far. Set the values in the panel instead.")
        elif not changes:
            st.caption("The settings are the same now.")
        else:
            now = msgspec.to_builtins(run.desired.settings)
            st.markdown(
                "  \n".join(
                    f"{escaping.markdown(name)}: {escaping.markdown(numbers.setting(now[name]))} → "
                    f"**{escaping.markdown(numbers.setting(value))}**"
                    for name, value in changes.items()
                )
            )
        if told := st.session_state.get(f"{run.run_id}/undo/told"):
            st.warning(told)


def _send(run_id: str, revision: int, earlier: int, changes: dict[str, object], reason: str) -> None:
    client = session.client()
    if client is None:
        return
    back = f"back to r{earlier}" if earlier else "back to the settings as registered"
    told = None
    try:
        client.change(run_id, changes, revision=revision, reason=f"{back}: {reason}" if reason else back)
    except Conflict:
        told = (
            "Somebody changed the settings just now, so nothing was undone. Look at what differs now, and undo again."
        )
    except Forbidden:
        session.read_only(learned=True)
    except Unauthorized:
        session.forget_token()
    except ClientError as error:
        told = f"Nothing was undone. {escaping.markdown(str(error), 600)}"
    else:
        st.session_state[f"{run_id}/undo/reason"] = ""
    st.session_state[f"{run_id}/undo/told"] = told  # until the next try: the list refreshes itself meanwhile
