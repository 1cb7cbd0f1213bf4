"""Remedies as buttons, first those of a throttled run: each says what follows, takes a reason, and sends a change."""

from __future__ import annotations

from functools import partial

import streamlit as st

from steadynorm_contract import forecast
from steadynorm_contract.changes import PRESETS
from steadynorm_contract.runs import RunDetail
from steadynorm_contract.settings import Mode, keeps_spikes_out, merge, resolve_increments
from steadynorm_dashboard.components import inputs
from steadynorm_dashboard.data import queries, session
from steadynorm_dashboard.formatting import escaping, throttling
from steadynorm_dashboard.panels import from_now_on, messages, run_actions, writes

RESET: dict[str, object] = {"reset_generation": "+1"}


def extent(run: RunDetail) -> str:
    """How much smaller updates are, and for how much longer; empty where it is not known or not so. Not escaped."""
    was = run.applied.settings
    if was.mode is not Mode.STABILIZE:
        return ""
    present = from_now_on.tensors(run)
    return throttling.extent_words(present, [forecast.forecast(each, was, was) for each in present])


def buttons(run: RunDetail, place: str) -> None:
    """Reset statistics, and the preset against the next spike. place: where on the page, for the widgets' keys."""
    change(run, RESET, "Reset statistics", f"{place}/reset", icon=":material/restart_alt:", primary=True)
    if not keeps_spikes_out(run.desired.settings):
        change(run, dict(PRESETS["robust"]), "Preset robust for the next spikes", f"{place}/robust")


def change(
    run: RunDetail,
    changes: dict[str, object],
    label: str,
    place: str,
    *,
    icon: str | None = None,
    primary: bool = False,
) -> None:
    """A button that opens what follows from `changes` and sends them once it is confirmed.

    changes: increments such as "+1" are resolved against the settings at that time.
    """
    key = f"{run.run_id}/{place}"
    writes.collect(f"{key}/write")
    locked = _lock(run, changes)
    with st.popover(
        label,
        icon=icon,
        key=f"{key}/open",
        type="primary" if primary else "secondary",
        on_change="rerun",
        disabled=locked is not None,
        help=locked,
    ):
        if st.session_state.get(f"{key}/open"):  # several requests
            now = merge(run.applied.settings, resolve_increments(changes, run.applied.settings))
            from_now_on.panel(run, now, key=f"{key}/outlook", table=False)
        for sentence in run_actions.warnings(run, changes):
            st.warning(sentence, icon=":material/warning:")
        run_actions.reason(f"{key}/reason", locked is not None)
        st.button(
            "Apply" if label.startswith("Set ") else f"{label} now",
            key=f"{key}/go",
            type="primary",
            disabled=locked is not None or writes.is_busy(f"{key}/write"),
            on_click=_send,
            args=(run.run_id, changes, key),
        )
    writes.follow(f"{key}/write")
    if message := st.session_state.get(f"{key}/message"):
        st.error(message)


@st.fragment(run_every=2)
def panel(run_id: str, event_id: str, place: str) -> None:
    """On the page of an event: what the throttling that it began or caused still does, and what ends it."""
    run, _ = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    events, _ = queries.fetch(f"{run_id}/events", lambda client: client.events(run_id), share="newest")
    began = throttling.current(events.events) if events else None
    if run is None or events is None or began is None or not run.state.is_live:
        return
    spike = throttling.cause(began, events.events)
    if event_id not in (began.id, spike.id if spike else None):
        return
    with st.container(border=True, gap="small"):
        words = extent(run)
        what = "The run is still throttled" if event_id == began.id else "This spike still throttles the run"
        st.markdown(f"**{what}**{f': {escaping.markdown(words, 200)}' if words else ''}.")
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            buttons(run, place)


def _lock(run: RunDetail, changes: dict[str, object]) -> str | None:
    if session.read_only():
        return session.read_only_reason()
    if not run.state.is_live:
        return f"The run has ended ({run.state.value})."
    desired = run.desired.settings
    if merge(desired, resolve_increments(changes, desired)) == desired:
        return "The run has these settings already."
    forbidden = [name for name in changes if run.allow is not None and name not in run.allow]
    return f"The training job does not allow changing {', '.join(forbidden)}." if forbidden else None


def _send(run_id: str, changes: dict[str, object], key: str) -> None:
    client = session.client()
    if client is None:
        return
    reason = inputs.value(f"{key}/reason") or ""
    st.session_state[f"{key}/open"] = False
    st.session_state.pop(f"{key}/message", None)

    def request() -> object:
        now = client.settings(run_id)
        resolved = resolve_increments(changes, now.settings)
        return client.change(run_id, resolved, revision=now.revision, reason=reason)

    writes.start(f"{key}/write", request, partial(_sent, key))


def _sent(key: str, answer: object) -> None:
    message = messages.outcome(answer)
    st.session_state[f"{key}/message"] = message
    if message is None and not isinstance(answer, Exception):
        inputs.put(f"{key}/reason", "")
        st.toast("Sent. The run applies it between two steps.", icon=":material/check:")
