"""What a run's settings are to do by themselves: schedules that wait for a step, and watch rules with their budgets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import msgspec
import streamlit as st

from steadynorm_contract.schedules import Schedule, ScheduleState
from steadynorm_contract.watch_rules import RuleView
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import escaping, numbers
from steadynorm_dashboard.formatting.tables import Row
from steadynorm_dashboard.panels import automation_forms

__all__ = ["panel", "rule_rows", "schedule_rows"]

_HOW = "`steadynorm schedule` and `steadynorm rules` make them too; what they did stands under Changes and Events."


def panel(run_id: str) -> None:
    """Both tables, and the forms that add to them."""
    run, _ = queries.read(f"{run_id}/run", lambda client: client.run(run_id))
    schedules, _ = queries.read(f"{run_id}/schedules", lambda client: client.schedules(run_id))
    rules, _ = queries.read(f"{run_id}/rules", lambda client: client.rules(run_id))
    now, zone = time.time(), st.context.timezone
    if schedules is not None and schedules.schedules:
        waiting = sum(each.state is ScheduleState.WAITING for each in schedules.schedules)
        verb = "waits for its" if waiting == 1 else "wait for their"
        st.caption(f"schedules: {waiting} {verb} step, {len(schedules.schedules) - waiting} over")
        st.dataframe(
            schedule_rows(schedules.schedules),
            key=f"{run_id}/schedules",
            hide_index=True,
            column_config={"from step": st.column_config.NumberColumn(format="localized")},
        )
    if rules is not None and rules.rules:
        st.caption(f"{len(rules.rules)} rules watch this run" if len(rules.rules) > 1 else "1 rule watches this run")
        st.dataframe(rule_rows(rules.rules, now, zone), key=f"{run_id}/rules", hide_index=True)
    if not (schedules and schedules.schedules) and not (rules and rules.rules):
        st.caption("Nothing changes this run's settings by itself.")
    if run is not None and schedules is not None and rules is not None:
        automation_forms.panel(run, schedules.schedules, rules)
    st.caption(_HOW)


def schedule_rows(schedules: Iterable[Schedule]) -> list[Row]:
    """One row a schedule, those that wait first."""
    return [
        {
            "schedule": each.id,
            "from step": each.from_step,
            "change": _words(each.settings),
            "who": escaping.visible(each.created_by),
            "why": escaping.visible(each.reason, 300),
            "state": each.state.value if each.step is None else f"{each.state.value} at step {each.step:,}",
            "outcome": f"r{each.revision}" if each.revision is not None else escaping.visible(each.why, 300),
        }
        for each in schedules
    ]


def rule_rows(rules: Iterable[RuleView], now: float, zone: str | None) -> list[Row]:
    """One row a rule, and where it stands."""
    return [
        {
            "rule": escaping.visible(each.rule.id),
            "when": escaping.visible(each.condition),
            "change": _words(each.rule.settings),
            "who": escaping.visible(each.created_by),
            "why": escaping.visible(each.rule.reason, 300),
            "count": f"{each.count:,} of {each.needed:,}",
            "actions left": f"{each.actions_left:,} of {each.rule.max_actions:,}",
            "now": _now(each, now, zone),
            "last action": "" if each.last_step is None else f"step {each.last_step:,}",
        }
        for each in rules
    ]


def _now(each: RuleView, now: float, zone: str | None) -> str:
    if each.stopped:
        return "stopped: the store was put back; give it anew to go on"
    if not each.actions_left:
        return "spent"
    if each.cooldown_until_step is not None:
        return f"rests until step {each.cooldown_until_step:,}"
    if each.cooldown_until_time is not None:
        return f"rests until {numbers.moment(each.cooldown_until_time, now, zone)}"
    return "watches"


def _words(settings: Mapping[str, object]) -> str:
    shown = (f"{name} = {msgspec.json.encode(value).decode().strip(chr(34))}" for name, value in settings.items())
    return escaping.visible(", ".join(shown), 300)
