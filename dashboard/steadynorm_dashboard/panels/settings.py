"""The settings panel: a draft shown, checked as it is edited, and sent.

The panel is a fragment that runs only when its own controls are used, so nothing moves under an operator's hands. Its
widgets live in the session state under `{run_id}/{setting}`; `draft` holds what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from steadynorm_contract.client import Client, ClientError, Conflict, Forbidden, InvalidChange, Unauthorized
from steadynorm_contract.runs import RunDetail, RunState
from steadynorm_contract.settings import merge
from steadynorm_contract.telemetry import Desired
from steadynorm_dashboard.data import session
from steadynorm_dashboard.formatting import escaping, numbers
from steadynorm_dashboard.panels import latest_change, preview, run_actions
from steadynorm_dashboard.panels.settings_draft import FIELDS, Draft, ceiling, rebased
from steadynorm_dashboard.panels.settings_fields import Fields, put

__all__ = ["behind", "panel"]

_LIVE = (RunState.RUNNING, RunState.STALLED)
_CEILING_HELP = (
    "(1 - gamma1) / √(1 - gamma2): the largest magnitude, as a multiple of the usual one, that a spike of any size can "
    "reach in steady state. It moves with the gammas before they are applied."
)


def panel(run: RunDetail) -> None:
    """Show this visitor's draft for `run`. One without edits follows the newest settings."""
    kept = _draft(run.run_id) is not None and f"{run.run_id}/mode" in st.session_state
    stale = behind(run.run_id, run.desired.revision) if kept else None
    if not kept or (stale is not None and not stale.changes()):
        _hold(run.run_id, Draft.of(Desired(run.desired.revision, run.desired.settings)))
    _panel(run)


def behind(run_id: str, revision: int) -> Draft | None:
    """This visitor's draft where it started from an older revision than `revision`."""
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
        st.subheader("Settings", anchor=False, help="Applied live, at a boundary between two optimizer steps.")
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
        latest_change.note(run.run_id, pending=draft.base.revision > run.applied.revision)
        _changes(draft, errors)
        st.text_input(
            "Reason",
            key=f"{run.run_id}/reason",
            placeholder="reason, for the audit list",
            max_chars=500,
            label_visibility="collapsed",
            disabled=locked is not None,
        )
        apply, look = st.columns([1, 1])
        if look.button(
            "Preview",
            key=f"{run.run_id}/preview/open",
            width="stretch",
            disabled=not draft.changes() or bool(errors),
            help="What this change would have done to the last recorded norms of the worst parameters.",
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
            show: Callable[..., object] = st.warning if notice[0] == "warning" else st.error
            show(notice[1])
            if notice[2]:
                st.dataframe(notice[2], hide_index=True, key=f"{run.run_id}/difference")


def _ceiling(draft: Draft) -> None:
    now = ceiling({"gamma1": draft.base.settings.gamma1, "gamma2": draft.base.settings.gamma2})
    new = ceiling(draft.values)
    moved = new != now
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("**Spike ceiling**", help=_CEILING_HELP, width="content")
        st.markdown(f"{numbers.number(now)} → **{numbers.number(new)}**" if moved else f"**{numbers.number(now)}**")


def _changes(draft: Draft, errors: dict[str, str]) -> None:
    """Current → new, of what differs."""
    lines = [
        f"{escaping.markdown(name)}: {escaping.markdown(numbers.setting(getattr(draft.base.settings, name)))} → "
        f"**{escaping.markdown(numbers.setting(value))}**"
        for name, value in draft.changes().items()
        if name not in errors
    ]
    if draft.changes() and not lines:
        lines = ["Correct the value above."]
    if lines:
        st.markdown("  \n".join(lines))
    else:
        st.caption("No changes to send.")


def _lock(run: RunDetail) -> str | None:
    """Why nothing can be changed; None: it can."""
    if session.read_only():
        return session.why_locked()
    if run.state not in _LIVE:
        return f"The run has ended ({run.state.value}): nobody would follow a change."
    return None


def _apply(run_id: str) -> None:
    """Send the draft."""
    draft = _draft(run_id)
    if draft is None:
        return
    draft.values = _read(run_id)
    _send(run_id, draft, draft.base.revision, draft.changes(), f"{run_id}/reason")


def _act(run_id: str, name: str) -> None:
    """Do what a button of `actions` says, on the newest settings: it depends on nothing that somebody else changed."""
    draft, client = _draft(run_id), session.client()
    if draft is None or client is None:
        return
    draft.values = _read(run_id)
    try:
        now = client.settings(run_id)
    except ClientError as error:
        _notice(run_id, "error", f"Nothing was changed. {escaping.markdown(str(error), 600)}")
        return
    action = run_actions.actions(draft.base.settings)[name]
    _send(run_id, draft, now.revision, action.changes(now.settings), f"{run_id}/{name}/reason")


def _send(run_id: str, draft: Draft, revision: int, changes: Mapping[str, object], reason: str) -> None:
    """What the server answers shows in the panel or in the list of changes. reason: the key of its input."""
    client = session.client()
    if client is None:
        return
    st.session_state.pop(f"{run_id}/notice", None)
    try:
        desired = client.change(run_id, changes, revision=revision, reason=st.session_state.get(reason) or "")
    except Conflict:
        _meet(run_id, draft, client)
    except InvalidChange as error:
        draft.refused = {one.field: (changes.get(one.field), one.message) for one in error.errors}
        if not set(draft.refused) <= set(draft.values):
            _notice(run_id, "error", escaping.markdown(str(error), 600))
    except Forbidden:
        session.read_only(learned=True)
    except Unauthorized:
        session.forget_token()
    except ClientError as error:
        _notice(run_id, "error", f"Nothing was changed. {escaping.markdown(str(error), 600)}")
    else:
        if draft.base.revision == revision:  # else `_meet` or the next drawing takes in what somebody else changed
            _hold(run_id, rebased(draft, desired)[0])
        st.session_state[reason] = ""


def _meet(run_id: str, draft: Draft, client: Client) -> None:
    """Somebody was faster. Take their settings in, keep this visitor's edits, and say what happened."""
    try:
        now = client.settings(run_id)
        newest = next((one for one in client.audit(run_id).entries if one.revision == now.revision), None)
    except ClientError as error:
        _notice(run_id, "error", f"Nothing was changed. {escaping.markdown(str(error), 600)}")
        return
    mine = draft.changes()
    draft, theirs = rebased(draft, now)
    _hold(run_id, draft)
    who = escaping.markdown(newest.actor) if newest else "Somebody"
    why = f" ({escaping.markdown(newest.reason, 300)})" if newest and newest.reason else ""
    what = ", ".join(
        f"{escaping.markdown(name)} {numbers.setting(old)} → {numbers.setting(new)}"
        for name, (old, new) in theirs.items()
    )
    difference = [
        {
            "setting": name,
            "was": numbers.setting(theirs[name][0]) if name in theirs else numbers.setting(getattr(now.settings, name)),
            "theirs": numbers.setting(theirs[name][1]) if name in theirs else numbers.MISSING,
            "yours": numbers.setting(mine[name]) if name in mine else numbers.MISSING,
        }
        for name in dict.fromkeys([*theirs, *mine])
    ]
    _notice(
        run_id,
        "warning",
        f"{who} changed {what or 'the settings'} while you were editing{why}. This form now starts from "
        f"r{now.revision} and keeps your edits. Nothing of yours was sent: look again, then press Apply.",
        difference,
    )


def _notice(run_id: str, kind: str, words: str, difference: Sequence[Mapping[str, str]] = ()) -> None:
    st.session_state[f"{run_id}/notice"] = (kind, words, difference)


def _draft(run_id: str) -> Draft | None:
    draft = st.session_state.get(f"{run_id}/draft")
    return draft if isinstance(draft, Draft) else None


def _hold(run_id: str, draft: Draft) -> None:
    """Keep `draft`, and let the widgets show it."""
    st.session_state[f"{run_id}/draft"] = draft
    for name in FIELDS:
        put(run_id, name, draft.values[name])


def _read(run_id: str) -> dict[str, object]:
    """What the widgets show, as settings."""
    values: dict[str, object] = {name: st.session_state[f"{run_id}/{name}"] for name in FIELDS}
    if not st.session_state[f"{run_id}/spike_limit/on"]:
        values["spike_limit"] = None
    return values
