"""Schedules and watch rules made and taken away on a run's page, by those who may.

Each form belongs to the browser until it is sent, so that the page's refreshes neither see nor move what is typed;
after it was accepted a new one takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from steadynorm_contract.changes import parse_assignments
from steadynorm_contract.client import Client, ClientError, Conflict, Forbidden, Unauthorized
from steadynorm_contract.runs import RunDetail, RunState
from steadynorm_contract.schedules import Schedule, ScheduleState
from steadynorm_contract.watch_rules import RuleList, WatchRule, parse_condition
from steadynorm_dashboard.data import session
from steadynorm_dashboard.formatting import escaping

__all__ = ["panel"]

_LIVE = (RunState.RUNNING, RunState.STALLED)
_CHANGE = "gamma2=0.999 mode=observe"
_SHOWN = 80


def panel(run: RunDetail, schedules: Sequence[Schedule], rules: RuleList) -> None:
    """The forms; a visitor who may not use them sees them locked, and reads why."""
    if run.state not in _LIVE:
        st.caption("The run has ended: nothing would follow a schedule or a rule.")
        return
    locked = session.read_only()
    if locked:
        st.info(session.why_locked(), icon=":material/lock:")
    with st.expander("Schedule a change", icon=":material/schedule:"):
        _schedule(run, locked)
    with st.expander("Give the run a rule", icon=":material/rule:"):
        _rule(run, locked)
    waiting = [each for each in schedules if each.state is ScheduleState.WAITING]
    if waiting or rules.rules:
        with st.expander("Take one away", icon=":material/delete:"):
            _take_away(run.run_id, waiting, rules, locked)
    if told := st.session_state.get(f"{run.run_id}/automatic/told"):
        st.error(told)


def _schedule(run: RunDetail, locked: bool) -> None:
    form = _form(run.run_id, "schedule")
    with st.form(form, border=False):
        at, change = st.columns([1, 2.4])
        at.number_input(
            "From step",
            min_value=1,
            value=None,
            step=1,
            key=f"{form}/step",
            placeholder=f"the run is at {run.step:,}",
            disabled=locked,
        )
        change.text_input("Change", key=f"{form}/change", placeholder=_CHANGE, max_chars=500, disabled=locked)
        _sent(form, "Schedule", locked, _add_schedule, run.run_id)


def _rule(run: RunDetail, locked: bool) -> None:
    form = _form(run.run_id, "rule")
    with st.form(form, border=False):
        name, when = st.columns([1, 2.4])
        name.text_input(
            "Rule",
            key=f"{form}/id",
            placeholder="low-target",
            max_chars=64,
            disabled=locked,
            help="Its name. A rule that the run has under this name is replaced.",
        )
        when.text_input(
            "When", key=f"{form}/when", placeholder="target_min < 0.3 for 200 steps", max_chars=200, disabled=locked
        )
        change, actions, rest = st.columns([1.8, 0.8, 0.8])
        change.text_input(
            "Change", key=f"{form}/change", placeholder="reset_generation=+1", max_chars=500, disabled=locked
        )
        actions.number_input("Actions at most", min_value=1, value=1, step=1, key=f"{form}/actions", disabled=locked)
        rest.number_input("Rest, in steps", min_value=0, value=100, step=10, key=f"{form}/rest", disabled=locked)
        _sent(form, "Give the rule", locked, _add_rule, run.run_id)


def _sent(form: str, label: str, locked: bool, send: Callable[[str, str], None], run_id: str) -> None:
    """What both forms end with: why, and the button."""
    why, go = st.columns([2.4, 1], vertical_alignment="bottom")
    why.text_input("Reason", key=f"{form}/reason", placeholder="for the audit list", max_chars=500, disabled=locked)
    go.form_submit_button(
        label, type="primary", width="stretch", disabled=locked, on_click=send, args=(run_id, form), key=f"{form}/go"
    )


def _take_away(run_id: str, waiting: Sequence[Schedule], rules: RuleList, locked: bool) -> None:
    labels = {("schedule", one.id): f"schedule {one.id}, from step {one.from_step:,}" for one in waiting}
    labels |= {("rule", one.rule.id): f"rule {one.rule.id}: {one.condition}" for one in rules.rules}
    which, go = st.columns([2.4, 1], vertical_alignment="bottom")
    kind, name = which.selectbox(
        "Which",
        list(labels),
        # Another box for each other list, for the reason that `undo` gives.
        key=f"{run_id}/automatic/which/{hash(tuple(labels))}",
        format_func=lambda key: escaping.visible(labels[key], _SHOWN),
        disabled=locked,
    )
    go.button(
        "Take away",
        key=f"{run_id}/automatic/away",
        width="stretch",
        disabled=locked,
        on_click=_remove,
        args=(run_id, kind, name),
    )


def _form(run_id: str, kind: str) -> str:
    """The key of the form that stands there now."""
    return f"{run_id}/{kind}/{st.session_state.get(f'{run_id}/{kind}/form', 0)}"


def _add_schedule(run_id: str, form: str) -> None:
    def add(client: Client) -> None:
        step = st.session_state[f"{form}/step"]
        if step is None:
            raise ValueError("a schedule must say from which step on: got none.")
        changes = parse_assignments(st.session_state[f"{form}/change"])
        client.schedule(run_id, int(step), changes, reason=st.session_state[f"{form}/reason"])

    _do(run_id, add, "schedule")


def _add_rule(run_id: str, form: str) -> None:
    def add(client: Client) -> None:
        state = st.session_state
        new = WatchRule(
            id=state[f"{form}/id"].strip(),
            when=parse_condition(state[f"{form}/when"]),
            settings=parse_assignments(state[f"{form}/change"]),
            reason=state[f"{form}/reason"],
            max_actions=int(state[f"{form}/actions"]),
            cooldown_steps=int(state[f"{form}/rest"]),
        )
        known = client.rules(run_id)
        client.set_rules(run_id, known.with_rule(new), revision=known.revision)

    _do(run_id, add, "rule")


def _remove(run_id: str, kind: str, name: str) -> None:
    def remove(client: Client) -> None:
        if kind == "schedule":
            client.unschedule(run_id, name)
            return
        known = client.rules(run_id)
        client.set_rules(run_id, known.without(name), revision=known.revision)

    _do(run_id, remove)


def _do(run_id: str, ask: Callable[[Client], None], form: str | None = None) -> None:
    """Ask the server. What it refuses is told until the next try; a form that it took makes room for a new one."""
    client = session.client()
    if client is None:
        return
    told = None
    try:
        ask(client)
    except Conflict:
        told = "Somebody changed the rules just now, so nothing was done. Look at them, and do it again."
    except Forbidden:
        session.read_only(learned=True)
    except Unauthorized:
        session.forget_token()
    except (ClientError, ValueError) as error:
        told = f"Nothing was changed. {escaping.markdown(str(error), 600)}"
    else:
        if form is not None:
            st.session_state[f"{run_id}/{form}/form"] = st.session_state.get(f"{run_id}/{form}/form", 0) + 1
    st.session_state[f"{run_id}/automatic/told"] = told
