"""Evaluates a run's watch rules on the scalars of a batch. Pure functions.

The rules are what operators wrote (the hash's field `rules`). Their progress (`rule_progress`) is committed with the
batch that it counts, so a batch that is sent twice counts once. A rule that fired is due until its action was executed.
"""

from __future__ import annotations

import functools
import math
import operator
import struct
from collections.abc import Callable, Sequence

import msgspec

from steadynorm_contract.settings import Mode
from steadynorm_contract.telemetry import StepScalars
from steadynorm_contract.watch_rules import Comparison, RuleView, WatchRule, show_condition
from steadynorm_server.runs.record import RunRecord

_HOLDS: dict[Comparison, Callable[[float, float], bool]] = {
    Comparison.BELOW: operator.lt,
    Comparison.AT_MOST: operator.le,
    Comparison.ABOVE: operator.gt,
    Comparison.AT_LEAST: operator.ge,
}


class StoredRule(msgspec.Struct, frozen=True):
    """A rule as an operator wrote it, and what it did. `version` differs each time that the rule is written."""

    rule: WatchRule
    version: str
    created_by: str
    created_at: float
    actions: int = 0
    last_step: int | None = None
    last_revision: int | None = None


class StoredRules(msgspec.Struct, frozen=True):
    """All rules of a run."""

    revision: int = 0
    rules: list[StoredRule] = []


class RuleProgress(msgspec.Struct):
    """How far one rule has counted. `fired`: actions that it called for; `step` and `time` are of the last one."""

    version: str
    count: int = 0
    fired: int = 0
    step: int | None = None
    time: float = 0.0


class _Progress(msgspec.Struct):
    incarnation: int = 0
    counts: dict[str, RuleProgress] = {}


def rules_of(run: RunRecord) -> StoredRules:
    """The run's rules."""
    return _decode(run.rules) if run.rules else StoredRules()


@functools.lru_cache(256)
def _decode(rules: bytes) -> StoredRules:
    """Cached: they are needed with every batch and seldom change."""
    return msgspec.json.decode(rules, type=StoredRules)


def evaluate(run: RunRecord, scalars: StepScalars | None, now: float) -> bytes:
    """Count the steps of a batch; updates and returns `run.rule_progress`. now: Unix seconds."""
    stored, counts = rules_of(run), _counts(run)
    columns: dict[str, Sequence[float]] = {}
    for each in stored.rules:
        count = counts[each.rule.id]
        if scalars is None or max(count.fired, each.actions) >= each.rule.max_actions or is_stopped(run, each):
            continue
        if (name := each.rule.when.scalar) not in columns:
            # A small target throttles nothing unless the run is stabilized.
            known = name != "target_min" or run.applied.mode is Mode.STABILIZE
            columns[name] = scalars.column(name) if known else [math.nan] * len(scalars.steps)
        _count(each, count, scalars.steps, columns[name], now)
    run.rule_progress = msgspec.json.encode(_Progress(run.incarnation, counts))
    return run.rule_progress


def due_rule(run: RunRecord) -> tuple[StoredRule, int] | None:
    """The first rule with an action to execute, and the step at which it fired."""
    if not run.rules or not run.rule_progress:
        return None
    counts = _counts(run)
    for each in rules_of(run).rules:
        count = counts[each.rule.id]
        if count.fired > each.actions and count.step is not None and not is_stopped(run, each):
            return each, count.step
    return None


def is_stopped(run: RunRecord, each: StoredRule) -> bool:
    """Whether Redis was restored to a state that may lack actions of this rule: its remaining ones are unknown."""
    return each.created_at <= run.rollback_time


def view(run: RunRecord, each: StoredRule, now: float) -> RuleView:
    """A rule with its progress, as GET rules returns it."""
    rule, count = each.rule, _counts(run)[each.rule.id]
    until_step = None if count.step is None else count.step + rule.cooldown_steps
    until_time = count.time + rule.cooldown_s
    return RuleView(
        rule=rule,
        condition=show_condition(rule.when),
        created_by=each.created_by,
        created_at=each.created_at,
        count=count.count,
        needed=rule.when.needed,
        stopped=is_stopped(run, each),
        actions=each.actions,
        actions_left=max(0, rule.max_actions - each.actions),
        cooldown_until_step=until_step if run.step + 1 in _cooldown(rule, count) else None,
        cooldown_until_time=until_time if count.step is not None and now < until_time else None,
        last_step=each.last_step,
        last_revision=each.last_revision,
    )


def _counts(run: RunRecord) -> dict[str, RuleProgress]:
    """By rule. A rule that was written again counts from 0, as does each after a restart of the training process."""
    stored = msgspec.json.decode(run.rule_progress, type=_Progress) if run.rule_progress else _Progress()
    found = {}
    for each in rules_of(run).rules:
        count = stored.counts.get(each.rule.id)
        if count is None or count.version != each.version:
            count = RuleProgress(each.version)
        elif stored.incarnation != run.incarnation:
            # What was due in the previous process is not executed in this one.
            count = RuleProgress(each.version, fired=each.actions, step=count.step, time=count.time)
        found[each.rule.id] = count
    return found


def _count(each: StoredRule, count: RuleProgress, steps: Sequence[int], values: Sequence[float], now: float) -> None:
    rule, when = each.rule, each.rule.when
    if count.step is not None and now < count.time + rule.cooldown_s:
        return
    holds, limit, needed = _HOLDS[when.comparison], _as_stored(when.value), when.needed
    cooldown = _cooldown(rule, count)
    for step, value in zip(steps, values, strict=True):
        if math.isnan(value) or step in cooldown:
            continue
        if holds(value, limit):
            count.count += 1
        elif when.times is None:
            count.count = 0
        if count.count >= needed:
            # The rest of the batch was recorded before the action can have had any effect.
            count.count, count.fired = 0, max(count.fired, each.actions) + 1
            count.step, count.time = step, now
            return


def _cooldown(rule: WatchRule, count: RuleProgress) -> range:
    """The cooldown steps after an action. They do not bind a run that went back to an earlier step."""
    return range(0) if count.step is None else range(count.step, count.step + rule.cooldown_steps)


def _as_stored(value: float) -> float:
    """In float32, as the scalars are, so that 0.3 is 0.3."""
    stored: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return stored
