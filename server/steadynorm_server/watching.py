"""Whether a run's watch rules have to act, from the scalars of a batch. Pure: nothing is done here.

The rules are what operators wrote (the hash's field `rules`); how far each has counted is telemetry's (`watch`), and is
committed with the batch that was counted, so a batch that comes twice counts once. A rule that fires has something due
until its action is made (`orders`), which whoever comes first does.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import msgspec

from steadynorm_contract.records import StepScalars
from steadynorm_contract.settings import Mode
from steadynorm_contract.watch_rules import Comparison, Condition, RuleView, WatchRule, show_condition
from steadynorm_server.record import RunRecord

__all__ = ["Count", "StoredRule", "StoredRules", "due_rule", "observe", "rules_of", "view"]


class StoredRule(msgspec.Struct, frozen=True):
    """A rule as an operator gave it, and what it did. `made` tells this giving of it from any other."""

    rule: WatchRule
    made: str
    made_by: str
    made_time: float
    actions: int = 0
    last_step: int | None = None
    last_revision: int | None = None


class StoredRules(msgspec.Struct, frozen=True):
    """All rules of a run."""

    revision: int = 0
    rules: list[StoredRule] = []


class Count(msgspec.Struct):
    """Where one rule stands. `fired`: how often it has to have acted; `step` and `time` are of the last time."""

    made: str
    count: int = 0
    fired: int = 0
    step: int | None = None
    time: float = 0.0


class _Watch(msgspec.Struct):
    incarnation: int = 0
    counts: dict[str, Count] = {}


def rules_of(run: RunRecord) -> StoredRules:
    """The run's rules."""
    return msgspec.json.decode(run.rules, type=StoredRules) if run.rules else StoredRules()


def observe(run: RunRecord, scalars: StepScalars | None, now: float) -> bytes:
    """Count the steps of a batch. Moves `run.watch` on and returns it. now: Unix seconds."""
    stored, counts = rules_of(run), _counts(run)
    columns: dict[str, Sequence[float]] = {}
    for each in stored.rules:
        count = counts[each.rule.id]
        if scalars is None or max(count.fired, each.actions) >= each.rule.max_actions:
            continue
        if (name := each.rule.when.scalar) not in columns:
            # Nothing is held back by a small target unless the run is stabilized.
            known = name != "target_min" or run.applied.mode is Mode.STABILIZE
            columns[name] = scalars.column(name) if known else [math.nan] * len(scalars.steps)
        _count(each, count, scalars.steps, columns[name], now)
    run.watch = msgspec.json.encode(_Watch(run.incarnation, counts))
    return run.watch


def due_rule(run: RunRecord) -> tuple[StoredRule, int] | None:
    """The first rule that has an action to make, and the step at which it fired."""
    if not run.rules or not run.watch:
        return None
    counts = _counts(run)
    for each in rules_of(run).rules:
        count = counts[each.rule.id]
        if count.fired > each.actions and count.step is not None:
            return each, count.step
    return None


def view(run: RunRecord, each: StoredRule, now: float) -> RuleView:
    """A rule as people see it."""
    rule, count = each.rule, _counts(run)[each.rule.id]
    until_step = None if count.step is None else count.step + rule.lock_steps
    until_time = count.time + rule.lock_s
    return RuleView(
        rule=rule,
        condition=show_condition(rule.when),
        made_by=each.made_by,
        made_time=each.made_time,
        count=count.count,
        needed=rule.when.needed,
        actions=each.actions,
        actions_left=max(0, rule.max_actions - each.actions),
        locked_until_step=until_step if until_step is not None and _locked_by_step(rule, count, run.step + 1) else None,
        locked_until_time=until_time if count.step is not None and now < until_time else None,
        last_step=each.last_step,
        last_revision=each.last_revision,
    )


def _counts(run: RunRecord) -> dict[str, Count]:
    """By rule. A rule that was given anew counts from 0, and so does each under another process of the run."""
    watch = msgspec.json.decode(run.watch, type=_Watch) if run.watch else _Watch()
    found = {}
    for each in rules_of(run).rules:
        count = watch.counts.get(each.rule.id)
        if count is None or count.made != each.made:
            count = Count(each.made)
        elif watch.incarnation != run.incarnation:
            # What was due to the process before is not done to this one.
            count = Count(each.made, fired=each.actions, step=count.step, time=count.time)
        found[each.rule.id] = count
    return found


def _count(each: StoredRule, count: Count, steps: Sequence[int], values: Sequence[float], now: float) -> None:
    rule = each.rule
    if now < count.time + rule.lock_s and count.step is not None:
        return
    for step, value in zip(steps, values, strict=True):
        if math.isnan(value) or _locked_by_step(rule, count, step):
            continue
        if _holds(rule.when, value):
            count.count += 1
        elif rule.when.times is None:
            count.count = 0
        if count.count >= rule.when.needed:
            # The rest of the batch was recorded before the action can have had any effect.
            count.count, count.fired = 0, max(count.fired, each.actions) + 1
            count.step, count.time = step, now
            return


def _locked_by_step(rule: WatchRule, count: Count, step: int) -> bool:
    """A run that is back at an earlier step than that of the action is not locked by it."""
    return count.step is not None and count.step <= step < count.step + rule.lock_steps


def _holds(condition: Condition, value: float) -> bool:
    limit: float = struct.unpack("<f", struct.pack("<f", condition.value))[0]  # as the scalars are, so that 0.3 is 0.3
    match condition.comparison:
        case Comparison.BELOW:
            return value < limit
        case Comparison.AT_MOST:
            return value <= limit
        case Comparison.ABOVE:
            return value > limit
        case Comparison.AT_LEAST:
            return value >= limit
