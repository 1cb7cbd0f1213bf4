"""Scheduled and rule-based settings changes of a run: both tables, and the forms to edit them."""

from __future__ import annotations

import time
from collections.abc import Iterable

import streamlit as st

from steadynorm_contract.schedules import Schedule, ScheduleState
from steadynorm_contract.watch_rules import RuleView
from steadynorm_dashboard.components.data_table import data_table
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import escaping, numbers
from steadynorm_dashboard.formatting.changes import assignments
from steadynorm_dashboard.formatting.tables import Row
from steadynorm_dashboard.panels import automation_forms


def panel(run_id: str) -> None:
    """Both tables and the forms."""
    run, _ = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    schedules, _ = queries.fetch(f"{run_id}/schedules", lambda client: client.schedules(run_id))
    rules, _ = queries.fetch(f"{run_id}/rules", lambda client: client.rules(run_id))
    now, zone = time.time(), st.context.timezone
    if schedules is not None and schedules.schedules:
        waiting = sum(each.state is ScheduleState.WAITING for each in schedules.schedules)
        st.caption(f"schedules: {waiting} waiting, {len(schedules.schedules) - waiting} done")
        data_table(schedule_rows(schedules.schedules), key=f"{run_id}/schedules", name="Schedules")
    if rules is not None and rules.rules:
        st.caption(f"rules: {len(rules.rules)}")
        data_table(rule_rows(rules.rules, now, zone), key=f"{run_id}/rules", name="Rules")
    if not (schedules and schedules.schedules) and not (rules and rules.rules):
        st.caption("No schedules or rules change this run's settings.")
    if run is not None and schedules is not None and rules is not None:
        automation_forms.panel(run, schedules.schedules, rules)
    st.caption(
        "`steadynorm schedule` and `steadynorm rules` do the same on the command line. The changes that schedules and "
        "rules made are listed under Changes and Events."
    )


def schedule_rows(schedules: Iterable[Schedule]) -> list[Row]:
    """One row per schedule, waiting ones first."""
    return [
        {
            "schedule": each.id,
            "from step": each.from_step,
            "change": escaping.visible(assignments(each.settings), 300),
            "who": escaping.visible(each.created_by),
            "why": escaping.visible(each.reason, 300),
            "state": each.state.value if each.step is None else f"{each.state.value} at step {each.step:,}",
            "outcome": f"r{each.revision}" if each.revision is not None else escaping.visible(each.why, 300),
        }
        for each in schedules
    ]


def rule_rows(rules: Iterable[RuleView], now: float, zone: str | None) -> list[Row]:
    """One row per rule, with its current state."""
    return [
        {
            "rule": escaping.visible(each.rule.id),
            "when": escaping.visible(each.condition),
            "change": escaping.visible(assignments(each.rule.settings), 300),
            "who": escaping.visible(each.created_by),
            "why": escaping.visible(each.rule.reason, 300),
            "count": f"{each.count:,} of {each.needed:,}",
            "actions left": f"{each.actions_left:,} of {each.rule.max_actions:,}",
            "state": _state(each, now, zone),
            "last action": "" if each.last_step is None else f"step {each.last_step:,}",
        }
        for each in rules
    ]


def _state(each: RuleView, now: float, zone: str | None) -> str:
    if each.stopped:
        return "stopped: Redis was restored from a backup; remove the rule and add it again to re-enable it"
    if not each.actions_left:
        return "no actions left"
    if each.cooldown_until_step is not None:
        return f"in cooldown until step {each.cooldown_until_step:,}"
    if each.cooldown_until_time is not None:
        return f"in cooldown until {numbers.moment(each.cooldown_until_time, now, zone)}"
    if not each.has_value:
        return escaping.visible(": ".join(filter(None, ("has seen no value yet", each.warning))), 300)
    return "watching"
