"""The settings panel: shows a draft, validates it while it is edited, and sends it.

The panel is a fragment that runs only when its own controls are used, so that it does not change during editing. Its
widgets store their values in the session state under `{run_id}/{setting}`; a `Draft` interprets them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import streamlit as st

from steadynorm_contract.client import Client, ClientError, Conflict, Finding, InvalidChange
from steadynorm_contract.clipping import AUTO
from steadynorm_contract.runs import RunDetail
from steadynorm_contract.settings import by_name, merge
from steadynorm_contract.telemetry import Desired
from steadynorm_dashboard.components import inputs
from steadynorm_dashboard.components.data_table import data_table
from steadynorm_dashboard.data import queries, session
from steadynorm_dashboard.formatting import escaping, numbers
from steadynorm_dashboard.formatting.changes import change_lines
from steadynorm_dashboard.panels import latest_change, messages, preview, run_actions, writes
from steadynorm_dashboard.panels.settings_draft import LATER_FIELDS, Draft, ceiling, rebased
from steadynorm_dashboard.panels.settings_fields import Fields, put

_CEILING_HELP = (
    "(1 - gamma1) / √(1 - gamma2): the largest magnitude, as a multiple of the usual one, that a spike of any size can "
    "reach in steady state. Computed from the values in this form."
)


_OPEN_KNOBS = 8
"""So many are shown at once."""


def panel(run: RunDetail) -> None:
    """This visitor's draft for `run`. A draft without edits is replaced by the newest settings."""
    stale = outdated_draft(run.run_id, run.desired.revision)
    known = _draft(run.run_id)
    if known is None or known.knobs != run.knobs or (stale is not None and not stale.changes()):
        _store(run.run_id, Draft.of(Desired(run.desired.revision, run.desired.settings), run.knobs))
    _panel(run)


def outdated_draft(run_id: str, revision: int) -> Draft | None:
    """This visitor's draft if it is based on a revision older than `revision`."""
    draft = _draft(run_id)
    if draft is None or draft.base.revision >= revision:
        return None
    draft.values = _read(run_id, draft)
    return draft


@st.fragment
def _panel(run: RunDetail) -> None:
    run_id = run.run_id
    found, _ = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    run = found or run  # a fragment is called again with what the page read when it was opened
    for slot in ("apply", "act"):
        writes.collect(f"{run.run_id}/{slot}/write")
    applying, acting = (writes.is_busy(f"{run.run_id}/{slot}/write") for slot in ("apply", "act"))
    draft = _draft(run.run_id)
    if draft is None:
        return
    draft.values = _read(run.run_id, draft)
    errors = draft.errors()
    locked = _lock(run)
    fields = Fields(run, errors, locked is not None)
    with st.container(key="run-actions", gap="xsmall"):
        run_actions.buttons(
            run,
            draft.base.settings,
            lambda setting: acting or locked is not None or not fields.allowed(setting),
            _act,
        )
        _answer(run, "act")
    with st.container(key="run-settings", border=True, gap="xsmall"):
        st.header("Settings", anchor=False, help="Applied while the run trains, between two optimizer steps.")
        if locked:
            st.info(locked, icon=":material/lock:")
        fields.mode()
        fields.presets()
        fields.decay("gamma1", "Decay of the mean norm, per step.")
        fields.decay("gamma2", "Decay of the mean squared norm, per step.")
        _ceiling(draft)
        fields.spike_limit()
        rest = ("eps", "lr_scale", "transfer", "clip_norm", *LATER_FIELDS)
        with st.expander("More", expanded=any(name in errors for name in rest)):
            fields.rest()
        if draft.knobs:
            wrong = any(knob.setting in errors for knob in draft.knobs)
            with st.expander(f"Knobs ({len(draft.knobs)})", expanded=wrong or len(draft.knobs) <= _OPEN_KNOBS):
                fields.knobs(draft.knobs)
        latest_change.panel(run.run_id, pending=draft.base.revision > run.applied.revision)
        _changes(draft, errors)
        run_actions.reason(f"{run.run_id}/reason", locked is not None)
        apply, open_preview = st.columns([1, 1])
        if open_preview.button(
            "Preview",
            key=f"{run.run_id}/preview/open",
            width="stretch",
            disabled=not draft.changes() or bool(errors),
            help="What this change would have done to the recorded norms of the parameters with the largest spikes.",
        ):
            preview.show(run, merge(draft.base.settings, draft.changes(), draft.knobs or []))
        sendable = bool(draft.changes()) and locked is None and not any(name in errors for name in draft.fields)
        with apply:
            run_actions.confirmed(
                run,
                draft.changes() if sendable else {},
                "Apply",
                lambda label: st.button(
                    "Applying…" if applying else label,
                    key=f"{run.run_id}/apply",
                    icon="spinner" if applying else None,
                    type="primary",
                    width="stretch",
                    disabled=applying or not sendable,
                    on_click=_apply,
                    args=(run.run_id,),
                ),
            )
        _answer(run, "apply")


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
        st.markdown(change_lines(by_name(draft.base.settings), valid))
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
    draft, client = _draft(run_id), session.client()
    if draft is None or client is None:
        return
    draft.values = _read(run_id, draft)
    changes, revision, why = draft.changes(), draft.base.revision, f"{run_id}/reason"
    reason = inputs.value(why) or ""
    _send(
        run_id,
        "apply",
        lambda: client.change(run_id, changes, revision=revision, reason=reason),
        changes,
        why,
    )


def _act(run_id: str, name: str) -> None:
    """Run the action `name` on the newest settings: it does not depend on what others changed meanwhile."""
    draft, client = _draft(run_id), session.client()
    if draft is None or client is None:
        return
    draft.values = _read(run_id, draft)
    action, why = run_actions.actions(draft.base.settings)[name], f"{run_id}/{name}/reason"
    reason = inputs.value(why) or ""

    def request() -> Desired:
        now = client.settings(run_id)
        return client.change(run_id, action.changes(now.settings), revision=now.revision, reason=reason)

    _send(run_id, "act", request, {}, why)


def _send(run_id: str, slot: str, request: Callable[[], Desired], changes: Mapping[str, object], reason: str) -> None:
    """Send a change. slot: `apply` or `act`, the button that its answer stands beside. reason: key of its input."""
    st.session_state.pop(f"{run_id}/{slot}/notice", None)
    writes.start(f"{run_id}/{slot}/write", request, partial(_sent, run_id, slot, changes, reason))


def _sent(run_id: str, slot: str, changes: Mapping[str, object], reason: str, answer: object) -> None:
    """Show what came of a change in the panel."""
    draft, client = _draft(run_id), session.client()
    if draft is None or client is None:
        return
    if isinstance(answer, Conflict):
        _rebase(run_id, slot, draft, client)
    elif isinstance(answer, InvalidChange):
        draft.rejected = {one.field: (changes.get(one.field), one.message) for one in answer.errors}
        if not set(draft.rejected) <= set(draft.values):
            _notice(run_id, slot, "error", escaping.markdown(str(answer), 600))
    elif isinstance(answer, Finding) and not answer.made:
        _notice(run_id, slot, "warning", messages.finding(answer))
    elif isinstance(answer, Exception):
        _notice(run_id, slot, "error", messages.write_error(answer))
    else:
        desired = cast("Desired", answer.result if isinstance(answer, Finding) else answer)
        if desired.revision - draft.base.revision in (0, 1):  # else the next refresh rebases on the others' changes
            _store(run_id, rebased(draft, desired)[0])
        inputs.put(reason, "")
        if isinstance(answer, Finding):
            _notice(run_id, slot, "success", messages.finding(answer))


def _rebase(run_id: str, slot: str, draft: Draft, client: Client) -> None:
    """The settings were changed concurrently: rebase this visitor's edits on the new ones, and show what happened."""
    try:
        now = client.settings(run_id)
        newest = next((one for one in client.audit(run_id).entries if one.revision == now.revision), None)
    except ClientError as error:
        _notice(run_id, slot, "error", messages.write_error(error))
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
            "was": numbers.setting(theirs[name][0] if name in theirs else by_name(now.settings).get(name)),
            "theirs": numbers.setting(theirs[name][1]) if name in theirs else numbers.MISSING,
            "yours": numbers.setting(mine[name]) if name in mine else numbers.MISSING,
        }
        for name in dict.fromkeys([*theirs, *mine])
    ]
    _notice(
        run_id,
        slot,
        "warning",
        f"{who} changed {what or 'the settings'} while you were editing{why}. The form now starts from "
        f"r{now.revision} and keeps your edits. Nothing was sent: check them, then press Apply again.",
        rows,
    )


def _notice(run_id: str, slot: str, kind: str, text: str | None, rows: Sequence[Mapping[str, str]] = ()) -> None:
    if text is not None and (draft := _draft(run_id)) is not None:
        st.session_state[f"{run_id}/{slot}/notice"] = (kind, text, rows, draft.base.revision)


def _answer(run: RunDetail, slot: str) -> None:
    """What came of the last change that was sent by this button, until a newer revision is known."""
    writes.follow(f"{run.run_id}/{slot}/write")
    notice = st.session_state.get(f"{run.run_id}/{slot}/notice")
    if notice is None or run.desired.revision > notice[3] + 1:
        return
    kind, text, rows, _ = notice
    {"warning": st.warning, "error": st.error, "success": st.success}[kind](text)
    if rows:
        data_table(rows, key=f"{run.run_id}/{slot}/difference", name="Their changes and yours")


def _draft(run_id: str) -> Draft | None:
    draft = st.session_state.get(f"{run_id}/draft")
    return draft if isinstance(draft, Draft) else None


def _store(run_id: str, draft: Draft) -> None:
    """Store `draft` and show it in the widgets."""
    st.session_state[f"{run_id}/draft"] = draft
    for name, value in draft.values.items():
        put(run_id, name, value, otherwise=draft.otherwise(name))


def _read(run_id: str, draft: Draft) -> dict[str, object]:
    """The values of the widgets as settings."""
    values: dict[str, object] = {name: inputs.value(f"{run_id}/{name}") for name in draft.values}
    for name in values:
        if draft.otherwise(name) is not None and not inputs.value(f"{run_id}/{name}/on"):
            values[name] = None
    if not inputs.value(f"{run_id}/spike_limit/on"):
        values["spike_limit"] = None
    if inputs.value(f"{run_id}/clip_norm/auto"):
        values["clip_norm"] = AUTO
    return values
