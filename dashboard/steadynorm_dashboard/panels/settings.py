"""The settings panel: shows a draft, validates it while it is edited, and sends it.

The panel is a fragment that runs only when its own controls are used, so that it does not change during editing. Its
widgets store their values in the session state under `{run_id}/{setting}`; a `Draft` interprets them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import streamlit as st

from steadynorm_contract.client import Client, ClientError, Conflict, InvalidChange
from steadynorm_contract.runs import RunDetail
from steadynorm_contract.settings import merge
from steadynorm_contract.telemetry import Desired
from steadynorm_dashboard.data import session
from steadynorm_dashboard.formatting import escaping, numbers
from steadynorm_dashboard.formatting.changes import change_lines
from steadynorm_dashboard.panels import latest_change, messages, preview, run_actions
from steadynorm_dashboard.panels.settings_draft import FIELDS, Draft, ceiling, rebased
from steadynorm_dashboard.panels.settings_fields import Fields, put

_CEILING_HELP = (
    "(1 - gamma1) / √(1 - gamma2): the largest magnitude, as a multiple of the usual one, that a spike of any size can "
    "reach in steady state. Computed from the values in this form."
)


def panel(run: RunDetail) -> None:
    """This visitor's draft for `run`. A draft without edits is replaced by the newest settings."""
    exists = _draft(run.run_id) is not None and f"{run.run_id}/mode" in st.session_state
    stale = outdated_draft(run.run_id, run.desired.revision) if exists else None
    if not exists or (stale is not None and not stale.changes()):
        _store(run.run_id, Draft.of(Desired(run.desired.revision, run.desired.settings)))
    _panel(run)


def outdated_draft(run_id: str, revision: int) -> Draft | None:
    """This visitor's draft if it is based on a revision older than `revision`."""
    draft = _draft(run_id)
    if draft is None or draft.base.revision >= revision:
        return None
    draft.values = _read(run_id)
    return draft


@st.fragment
def _panel(run: RunDetail) -> None:
    draft = _draft(run.run_id)
    if draft is None:
        return
    draft.values = _read(run.run_id)
    errors = draft.errors()
    locked = _lock(run)
    fields = Fields(run, errors, locked is not None)
    with st.container(border=True, gap="xsmall"):
        st.subheader("Settings", anchor=False, help="Applied while the run trains, between two optimizer steps.")
        if locked:
            st.info(locked, icon=":material/lock:")
        fields.mode()
        fields.presets()
        fields.decay("gamma1", "Decay of the mean norm, per step.")
        fields.decay("gamma2", "Decay of the mean squared norm, per step.")
        _ceiling(draft)
        fields.spike_limit()
        with st.expander("More", expanded=any(name in errors for name in ("eps", "lr_scale", "transfer"))):
            fields.rest()
        latest_change.panel(run.run_id, pending=draft.base.revision > run.applied.revision)
        _changes(draft, errors)
        st.text_input(
            "Reason",
            key=f"{run.run_id}/reason",
            placeholder="reason, recorded in the audit log",
            max_chars=500,
            label_visibility="collapsed",
            disabled=locked is not None,
        )
        apply, open_preview = st.columns([1, 1])
        if open_preview.button(
            "Preview",
            key=f"{run.run_id}/preview/open",
            width="stretch",
            disabled=not draft.changes() or bool(errors),
            help="What this change would have done to the recorded norms of the parameters with the largest spikes.",
        ):
            preview.show(run, merge(draft.base.settings, draft.changes()))
        apply.button(
            "Apply",
            key=f"{run.run_id}/apply",
            type="primary",
            width="stretch",
            disabled=locked is not None or not draft.changes() or any(name in errors for name in FIELDS),
            on_click=_apply,
            args=(run.run_id,),
        )
        run_actions.buttons(
            run.run_id,
            draft.base.settings,
            lambda setting: locked is not None or not fields.allowed(setting),
            _act,
        )
        if notice := st.session_state.get(f"{run.run_id}/notice"):
            kind, text, rows = notice
            show: Callable[..., object] = st.warning if kind == "warning" else st.error
            show(text)
            if rows:
                st.dataframe(rows, hide_index=True, key=f"{run.run_id}/difference")


def _ceiling(draft: Draft) -> None:
    now = ceiling({"gamma1": draft.base.settings.gamma1, "gamma2": draft.base.settings.gamma2})
    new = ceiling(draft.values)
    changed = new != now
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("**Spike ceiling**", help=_CEILING_HELP, width="content")
        st.markdown(f"{numbers.number(now)} → **{numbers.number(new)}**" if changed else f"**{numbers.number(now)}**")


def _changes(draft: Draft, errors: dict[str, str]) -> None:
    """Current → new value of each edited setting."""
    valid = [(name, value) for name, value in draft.changes().items() if name not in errors]
    if valid:
        st.markdown(change_lines(msgspec.structs.asdict(draft.base.settings), valid))
    elif draft.changes():
        st.markdown("Correct the value above.")
    else:
        st.caption("No changes to apply.")


def _lock(run: RunDetail) -> str | None:
    """Why the settings cannot be changed; None: they can."""
    if session.read_only():
        return session.read_only_reason()
    if not run.state.is_live:
        return f"The run has ended ({run.state.value}): its settings cannot be changed."
    return None


def _apply(run_id: str) -> None:
    """Send the draft."""
    draft = _draft(run_id)
    if draft is None:
        return
    draft.values = _read(run_id)
    _send(run_id, draft, draft.base.revision, draft.changes(), f"{run_id}/reason")


def _act(run_id: str, name: str) -> None:
    """Run the action `name` on the newest settings: it does not depend on what others changed meanwhile."""
    draft, client = _draft(run_id), session.client()
    if draft is None or client is None:
        return
    draft.values = _read(run_id)
    try:
        now = client.settings(run_id)
    except ClientError as error:
        _notice(run_id, "error", messages.write_error(error))
        return
    action = run_actions.actions(draft.base.settings)[name]
    _send(run_id, draft, now.revision, action.changes(now.settings), f"{run_id}/{name}/reason")


def _send(run_id: str, draft: Draft, revision: int, changes: Mapping[str, object], reason: str) -> None:
    """Send a change. Errors are shown in the panel. reason: the key of its text input."""
    client = session.client()
    if client is None:
        return
    st.session_state.pop(f"{run_id}/notice", None)
    try:
        desired = client.change(run_id, changes, revision=revision, reason=st.session_state.get(reason) or "")
    except Conflict:
        _rebase(run_id, draft, client)
    except InvalidChange as error:
        draft.rejected = {one.field: (changes.get(one.field), one.message) for one in error.errors}
        if not set(draft.rejected) <= set(draft.values):
            _notice(run_id, "error", escaping.markdown(str(error), 600))
    except ClientError as error:
        _notice(run_id, "error", messages.write_error(error))
    else:
        if draft.base.revision == revision:  # else the next refresh rebases the draft on the others' changes
            _store(run_id, rebased(draft, desired)[0])
        st.session_state[reason] = ""


def _rebase(run_id: str, draft: Draft, client: Client) -> None:
    """The settings were changed concurrently: rebase this visitor's edits on the new ones, and show what happened."""
    try:
        now = client.settings(run_id)
        newest = next((one for one in client.audit(run_id).entries if one.revision == now.revision), None)
    except ClientError as error:
        _notice(run_id, "error", messages.write_error(error))
        return
    mine = draft.changes()
    draft, theirs = rebased(draft, now)
    _store(run_id, draft)
    who = escaping.markdown(newest.actor) if newest else "Another operator"
    why = f" ({escaping.markdown(newest.reason, 300)})" if newest and newest.reason else ""
    what = ", ".join(
        f"{escaping.markdown(name)} {numbers.setting(old)} → {numbers.setting(new)}"
        for name, (old, new) in theirs.items()
    )
    rows = [
        {
            "setting": name,
            "was": numbers.setting(theirs[name][0] if name in theirs else getattr(now.settings, name)),
            "theirs": numbers.setting(theirs[name][1]) if name in theirs else numbers.MISSING,
            "yours": numbers.setting(mine[name]) if name in mine else numbers.MISSING,
        }
        for name in dict.fromkeys([*theirs, *mine])
    ]
    _notice(
        run_id,
        "warning",
        f"{who} changed {what or 'the settings'} while you were editing{why}. The form now starts from "
        f"r{now.revision} and keeps your edits. Nothing was sent: check them, then press Apply again.",
        rows,
    )


def _notice(run_id: str, kind: str, text: str | None, rows: Sequence[Mapping[str, str]] = ()) -> None:
    if text is not None:
        st.session_state[f"{run_id}/notice"] = (kind, text, rows)


def _draft(run_id: str) -> Draft | None:
    draft = st.session_state.get(f"{run_id}/draft")
    return draft if isinstance(draft, Draft) else None


def _store(run_id: str, draft: Draft) -> None:
    """Store `draft` and show it in the widgets."""
    st.session_state[f"{run_id}/draft"] = draft
    for name in FIELDS:
        put(run_id, name, draft.values[name])


def _read(run_id: str) -> dict[str, object]:
    """The values of the widgets as settings."""
    values: dict[str, object] = {name: st.session_state[f"{run_id}/{name}"] for name in FIELDS}
    if not st.session_state[f"{run_id}/spike_limit/on"]:
        values["spike_limit"] = None
    return values
