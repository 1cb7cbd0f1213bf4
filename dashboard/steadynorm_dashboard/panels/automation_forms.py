"""Forms that add and remove schedules and rules on a run's page.

A form's values stay in the browser until it is submitted, so that refreshes of the page do not affect them; after it
was accepted, an empty form replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import streamlit as st

from steadynorm_contract.changes import parse_assignments
from steadynorm_contract.client import Client
from steadynorm_contract.runs import RunDetail
from steadynorm_contract.schedules import Schedule, ScheduleState
from steadynorm_contract.watch_rules import RuleList, WatchRule, parse_condition
from steadynorm_dashboard.data import session
from steadynorm_dashboard.formatting import escaping
from steadynorm_dashboard.panels import messages, writes

_CHANGE = "gamma2=0.999 mode=observe"
_CONDITIONS = "For example: " + ", ".join(
    f"`{each}`"
    for each in (
        "loss > mean + 6 sigma of 200 for 3 steps",
        "raw_norm > 20 x median of 500",
        "nonfinite > 0, 3 times in 20 steps",
        "loss is nan for 2 steps",
    )
)
_SHOWN = 80


def panel(run: RunDetail, schedules: Sequence[Schedule], rules: RuleList) -> None:
    """The forms; visitors with read-only access see them locked, with the reason."""
    if not run.state.is_live:
        st.caption("The run has ended: schedules and rules no longer apply.")
        return
    writes.collect(_writing(run.run_id))
    read_only = session.read_only()
    locked = read_only or writes.is_busy(_writing(run.run_id))
    if read_only:
        st.info(session.read_only_reason(), icon=":material/lock:")
    with st.expander("Schedule a change", icon=":material/schedule:"):
        _schedule(run, locked)
    with st.expander("Add a rule", icon=":material/rule:"):
        _rule(run, locked)
    waiting = [each for each in schedules if each.state is ScheduleState.WAITING]
    if waiting or rules.rules:
        with st.expander("Remove a schedule or rule", icon=":material/delete:"):
            _removal(run.run_id, waiting, rules, locked)
    writes.follow(_writing(run.run_id))
    if message := st.session_state.get(f"{run.run_id}/automation/message"):
        st.error(message)
    if warning := st.session_state.get(f"{run.run_id}/automation/warning"):
        st.warning(escaping.markdown(warning, 400), icon=":material/help:")


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
        _submit(form, "Schedule", locked, _add_schedule, run.run_id)


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
            help="The rule's name. An existing rule with this name is replaced.",
        )
        when.text_input(
            "When",
            key=f"{form}/when",
            placeholder="target_min < 0.3 for 200 steps",
            max_chars=200,
            disabled=locked,
            help=_CONDITIONS,
        )
        change, actions, cooldown = st.columns([1.8, 0.8, 0.8])
        change.text_input(
            "Change", key=f"{form}/change", placeholder="reset_generation=+1", max_chars=500, disabled=locked
        )
        actions.number_input("Max actions", min_value=1, value=1, step=1, key=f"{form}/actions", disabled=locked)
        cooldown.number_input(
            "Cooldown, steps", min_value=0, value=100, step=10, key=f"{form}/cooldown", disabled=locked
        )
        _submit(form, "Save rule", locked, _add_rule, run.run_id)


def _submit(form: str, label: str, locked: bool, send: Callable[[str, str], None], run_id: str) -> None:
    """The end of both forms: the reason and the button."""
    why, go = st.columns([2.4, 1], vertical_alignment="bottom")
    why.text_input(
        "Reason", key=f"{form}/reason", placeholder="recorded in the audit log", max_chars=500, disabled=locked
    )
    go.form_submit_button(
        label, type="primary", width="stretch", disabled=locked, on_click=send, args=(run_id, form), key=f"{form}/go"
    )


def _removal(run_id: str, waiting: Sequence[Schedule], rules: RuleList, locked: bool) -> None:
    labels = {("schedule", one.id): f"schedule {one.id}, from step {one.from_step:,}" for one in waiting}
    labels |= {("rule", one.rule.id): f"rule {one.rule.id}: {one.condition}" for one in rules.rules}
    which, go = st.columns([2.4, 1], vertical_alignment="bottom")
    kind, name = which.selectbox(
        "Which",
        list(labels),
        # A new box for each list, for the reason given in `undo`.
        key=f"{run_id}/automation/which/{hash(tuple(labels))}",
        format_func=lambda key: escaping.visible(labels[key], _SHOWN),
        disabled=locked,
    )
    go.button(
        "Remove",
        key=f"{run_id}/automation/remove",
        width="stretch",
        disabled=locked,
        on_click=_remove,
        args=(run_id, kind, name),
    )


def _form(run_id: str, kind: str) -> str:
    """The key of the current form."""
    return f"{run_id}/{kind}/{st.session_state.get(f'{run_id}/{kind}/form', 0)}"


def _add_schedule(run_id: str, form: str) -> None:
    state = st.session_state

    def prepare(client: Client) -> Callable[[], object]:
        step = state[f"{form}/step"]
        if step is None:
            raise ValueError("a schedule needs the step from which it applies: got none. Fill in From step.")
        changes, reason = parse_assignments(state[f"{form}/change"]), state[f"{form}/reason"]
        return lambda: client.schedule(run_id, int(step), changes, reason=reason)

    _write(run_id, prepare, "schedule")


def _add_rule(run_id: str, form: str) -> None:
    state = st.session_state

    def prepare(client: Client) -> Callable[[], object]:
        new = WatchRule(
            id=state[f"{form}/id"].strip(),
            when=parse_condition(state[f"{form}/when"]),
            settings=parse_assignments(state[f"{form}/change"]),
            reason=state[f"{form}/reason"],
            max_actions=int(state[f"{form}/actions"]),
            cooldown_steps=int(state[f"{form}/cooldown"]),
        )
        state[f"{run_id}/automation/saved"] = new.id

        def add() -> RuleList:
            known = client.rules(run_id)
            return client.set_rules(run_id, known.with_rule(new), revision=known.revision)

        return add

    _write(run_id, prepare, "rule")


def _remove(run_id: str, kind: str, name: str) -> None:
    def prepare(client: Client) -> Callable[[], object]:
        def remove() -> None:
            if kind == "schedule":
                client.unschedule(run_id, name)
                return
            known = client.rules(run_id)
            client.set_rules(run_id, known.without(name), revision=known.revision)

        return remove

    _write(run_id, prepare)


def _write(run_id: str, prepare: Callable[[Client], Callable[[], object]], form: str | None = None) -> None:
    """Send the request that `prepare` makes of the inputs. An error is shown until the next attempt."""
    client = session.client()
    if client is None:
        return
    try:
        request = prepare(client)
    except ValueError as error:
        _sent(run_id, form, error)
    else:
        writes.start(_writing(run_id), request, partial(_sent, run_id, form))


def _sent(run_id: str, form: str | None, answer: object) -> None:
    """Show what came of it. A form that was accepted is replaced by an empty one."""
    message = messages.outcome(answer, "rules")
    saved = st.session_state.get(f"{run_id}/automation/saved")
    told = [each.warning for each in answer.rules if each.rule.id == saved] if isinstance(answer, RuleList) else []
    st.session_state[f"{run_id}/automation/warning"] = " ".join(filter(None, told))
    if message is None and form is not None and not isinstance(answer, Exception):
        st.session_state[f"{run_id}/{form}/form"] = st.session_state.get(f"{run_id}/{form}/form", 0) + 1
    st.session_state[f"{run_id}/automation/message"] = message


def _writing(run_id: str) -> str:
    return f"{run_id}/automation/write"
