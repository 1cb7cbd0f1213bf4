"""The settings panel: a draft shown, checked as it is edited, and sent.

The panel is a fragment that runs only when its own controls are used, so nothing moves under an operator's hands. Its
widgets live in the session state under `{run_id}/{setting}`; `draft` holds what they mean.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from steadynorm_contract.client import Client, ClientError, Conflict, Forbidden, InvalidChange, Unauthorized
from steadynorm_contract.records import Desired
from steadynorm_contract.settings import Mode, Transfer
from steadynorm_contract.views import RunDetail, RunState
from steadynorm_dashboard import session, text, units
from steadynorm_dashboard.draft import FIELDS, Draft, ceiling, decay_choices, rebased

__all__ = ["behind", "panel"]

_LIVE = (RunState.RUNNING, RunState.STALLED)
_DEFAULT_SPIKE_LIMIT = 10.0
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
    fields = _Fields(run, errors, locked is not None)
    with st.container(border=True, gap="xsmall"):
        st.subheader("Settings", anchor=False, help="Applied live, at a boundary between two optimizer steps.")
        if locked:
            st.info(locked, icon=":material/lock:")
        fields.mode()
        fields.decay("gamma1", "Decay of the mean norm, per step.")
        fields.decay("gamma2", "Decay of the mean squared norm, per step.")
        _ceiling(draft)
        fields.spike_limit()
        with st.expander("More", expanded=any(name in errors for name in ("eps", "lr_scale", "transfer"))):
            fields.rest()
        _changes(draft, errors)
        st.text_input("Reason", key=f"{run.run_id}/reason", placeholder="why, for the audit list", max_chars=500)
        apply, reset = st.columns([1, 1.4])
        apply.button(
            "Apply",
            key=f"{run.run_id}/apply",
            type="primary",
            width="stretch",
            disabled=locked is not None or not draft.changes() or any(name in errors for name in FIELDS),
            on_click=_send,
            args=(run.run_id, None),
        )
        reset.button(
            "Reset statistics",
            key=f"{run.run_id}/reset",
            width="stretch",
            disabled=locked is not None or not fields.allowed("reset_generation"),
            help="Forget the norms seen so far, at once. The way out when an old spike throttles the run.",
            on_click=_send,
            args=(run.run_id, "reset_generation"),
        )
        if notice := st.session_state.get(f"{run.run_id}/notice"):
            show: Callable[..., object] = st.warning if notice[0] == "warning" else st.error
            show(notice[1])


class _Fields:
    """The widgets of one run's panel, each with its error beneath."""

    def __init__(self, run: RunDetail, errors: dict[str, str], locked: bool) -> None:
        self._run, self._errors, self._locked = run, errors, locked

    def allowed(self, name: str) -> bool:
        return self._run.allow is None or name in self._run.allow

    def _disabled(self, name: str) -> bool:
        return self._locked or not self.allowed(name)

    def _key(self, name: str) -> str:
        return f"{self._run.run_id}/{name}"

    def _help(self, words: str, name: str) -> str:
        return words if self.allowed(name) else f"{words} The job's owner did not allow changing it."

    def _error(self, name: str) -> None:
        if name in self._errors:
            st.error(text.markdown(self._errors[name], 400))

    def mode(self) -> None:
        st.segmented_control(
            "mode",
            [mode.value for mode in Mode],
            key=self._key("mode"),
            required=True,
            disabled=self._disabled("mode"),
            help=self._help(
                "off: nothing is measured. observe: measured, gradients untouched. stabilize: the gradient keeps its "
                "direction, its magnitude is replaced.",
                "mode",
            ),
        )
        self._error("mode")

    def decay(self, name: str, words: str) -> None:
        value, memory = st.columns([1, 1], vertical_alignment="bottom")
        with value:
            typed = st.number_input(
                name,
                key=self._key(name),
                step=0.001,
                format="%.7g",
                disabled=self._disabled(name),
                help=self._help(words + " 0 ≤ decay < 1.", name),
            )
        valid = typed is not None and 0 <= typed < 1
        memory.caption(units.half_life(typed) if typed is not None and valid else units.MISSING)
        choices = decay_choices(typed)
        slider = self._key(f"{name}/slider")
        # The number is the value; the slider is a hand on it, and follows what is typed.
        st.session_state[slider] = typed if valid else choices[-1]
        st.select_slider(
            f"{name} slider",
            choices,
            key=slider,
            format_func=units.setting,
            label_visibility="collapsed",
            disabled=self._disabled(name),
            on_change=_slide,
            args=(slider, self._key(name)),
        )
        self._error(name)

    def spike_limit(self) -> None:
        switch, value = st.columns([1, 1], vertical_alignment="center")
        words = "Norms above this multiple of their RMS enter the statistics clipped. Off is the paper's rule."
        limited = switch.toggle(
            "spike_limit",
            key=self._key("spike_limit/on"),
            disabled=self._disabled("spike_limit"),
            help=self._help(words, "spike_limit"),
        )
        with value:
            st.number_input(
                "spike_limit ratio",
                key=self._key("spike_limit"),
                step=1.0,
                format="%.7g",
                label_visibility="collapsed",
                disabled=not limited or self._disabled("spike_limit"),
            )
        self._error("spike_limit")

    def rest(self) -> None:
        st.number_input(
            "lr_scale",
            key=self._key("lr_scale"),
            step=0.1,
            format="%.7g",
            disabled=self._disabled("lr_scale"),
            help=self._help("Factor on every learning rate, 0 to 10. Schedulers never notice.", "lr_scale"),
        )
        self._error("lr_scale")
        st.number_input(
            "eps",
            key=self._key("eps"),
            step=1e-12,
            format="%.7g",
            disabled=self._disabled("eps"),
            help=self._help("Added to the RMS norm before dividing by it, in the gradient's unit.", "eps"),
        )
        self._error("eps")
        st.segmented_control(
            "transfer",
            [transfer.value for transfer in Transfer],
            key=self._key("transfer"),
            required=True,
            disabled=self._disabled("transfer"),
            help=self._help(
                "bumpless: a switch of mode carries the gradient's scale over. plain: the paper's bare rule.",
                "transfer",
            ),
        )
        self._error("transfer")


def _ceiling(draft: Draft) -> None:
    now = ceiling({"gamma1": draft.base.settings.gamma1, "gamma2": draft.base.settings.gamma2})
    new = ceiling(draft.values)
    moved = new != now
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("**Spike ceiling**", help=_CEILING_HELP, width="content")
        st.markdown(f"{units.number(now)} → **{units.number(new)}**" if moved else f"**{units.number(now)}**")


def _changes(draft: Draft, errors: dict[str, str]) -> None:
    """Current → new, of what differs."""
    lines = [
        f"{text.markdown(name)}: {text.markdown(units.setting(getattr(draft.base.settings, name)))} → "
        f"**{text.markdown(units.setting(value))}**"
        for name, value in draft.changes().items()
        if name not in errors
    ]
    if draft.changes() and not lines:
        lines = ["Correct the value above."]
    st.markdown("  \n".join(lines) if lines else f"No changes. Settings of r{draft.base.revision}.")


def _lock(run: RunDetail) -> str | None:
    """Why nothing can be changed; None: it can."""
    if session.read_only():
        return "Your token may look and not change. Ask for an operator token to change settings."
    if run.state not in _LIVE:
        return f"The run has ended ({run.state.value}): nobody would follow a change."
    return None


def _slide(slider: str, number: str) -> None:
    st.session_state[number] = st.session_state[slider]


def _send(run_id: str, action: str | None) -> None:
    """Send the draft, or run a one-off action. What the server answers shows in the panel or in the list of changes."""
    draft, client = _draft(run_id), session.client()
    if draft is None or client is None:
        return
    draft.values = _read(run_id)
    changes = {action: getattr(draft.base.settings, action) + 1} if action else draft.changes()
    reason = st.session_state.get(f"{run_id}/reason") or ""
    st.session_state.pop(f"{run_id}/notice", None)
    try:
        desired = client.change(run_id, changes, revision=draft.base.revision, reason=reason)
    except Conflict:
        _meet(run_id, draft, client)
    except InvalidChange as error:
        draft.refused = {one.field: (changes.get(one.field), one.message) for one in error.errors}
        if not set(draft.refused) <= set(draft.values):
            _notice(run_id, "error", text.markdown(str(error), 600))
    except Forbidden:
        session.read_only(learned=True)
    except Unauthorized:
        session.forget_token()
    except ClientError as error:
        _notice(run_id, "error", f"Nothing was changed. {text.markdown(str(error), 600)}")
    else:
        _hold(run_id, rebased(draft, desired)[0])
        st.session_state[f"{run_id}/reason"] = ""


def _meet(run_id: str, draft: Draft, client: Client) -> None:
    """Somebody was faster. Take their settings in, keep this visitor's edits, and say what happened."""
    try:
        now = client.settings(run_id)
        newest = next((one for one in client.audit(run_id).entries if one.revision == now.revision), None)
    except ClientError as error:
        _notice(run_id, "error", f"Nothing was changed. {text.markdown(str(error), 600)}")
        return
    draft, theirs = rebased(draft, now)
    _hold(run_id, draft)
    who = text.markdown(newest.actor) if newest else "Somebody"
    why = f" ({text.markdown(newest.reason, 300)})" if newest and newest.reason else ""
    what = ", ".join(
        f"{text.markdown(name)} {units.setting(old)} → {units.setting(new)}" for name, (old, new) in theirs.items()
    )
    _notice(
        run_id,
        "warning",
        f"{who} changed {what or 'the settings'} while you were editing{why}. This form now starts from "
        f"r{now.revision} and keeps your edits. Nothing of yours was sent: look again, then press Apply.",
    )


def _notice(run_id: str, kind: str, words: str) -> None:
    st.session_state[f"{run_id}/notice"] = (kind, words)


def _draft(run_id: str) -> Draft | None:
    draft = st.session_state.get(f"{run_id}/draft")
    return draft if isinstance(draft, Draft) else None


def _hold(run_id: str, draft: Draft) -> None:
    """Keep `draft`, and let the widgets show it."""
    st.session_state[f"{run_id}/draft"] = draft
    for name in FIELDS:
        value = draft.values[name]
        if name == "spike_limit":
            st.session_state[f"{run_id}/spike_limit/on"] = value is not None
            value = _DEFAULT_SPIKE_LIMIT if value is None else value
        st.session_state[f"{run_id}/{name}"] = value.value if isinstance(value, Mode | Transfer) else value


def _read(run_id: str) -> dict[str, object]:
    """What the widgets show, as settings."""
    values: dict[str, object] = {name: st.session_state[f"{run_id}/{name}"] for name in FIELDS}
    if not st.session_state[f"{run_id}/spike_limit/on"]:
        values["spike_limit"] = None
    return values
