"""Evaluates a run's watch rules on the scalars of a batch. Pure functions.

The rules are what operators wrote (the hash's field `rules`). Their progress (`rule_progress`) is committed with the
batch that it counts, so a batch that is sent twice counts once. A rule that fired is due until its action was executed.
"""

import functools
import math
from collections.abc import Sequence

import msgspec

from steadynorm_contract.conditions import Comparison, Condition, scalar_warning, show_condition
from steadynorm_contract.detectors import Detector, DetectorState
from steadynorm_contract.settings import Mode
from steadynorm_contract.telemetry import StepScalars
from steadynorm_contract.watch_rules import RuleView, WatchRule
from steadynorm_server.runs.logged import column
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.timeseries.blocks import Block


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


class RuleProgress(msgspec.Struct, omit_defaults=True):
    """How far one rule has counted. `fired`: actions that it called for; `step` and `time` are of the last one.

    count, steps, calm: as in `DetectorState`.
    """

    version: str
    count: int = 0
    fired: int = 0
    step: int | None = None
    time: float = 0.0
    steps: list[int] = []
    calm: bytes = b""


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


def evaluate(run: RunRecord, scalars: StepScalars | None, logged: Block | None, now: float) -> bytes:
    """Count the steps of a batch; updates and returns `run.rule_progress`. now: Unix seconds.

    logged: what the loop logged under names of its own, with the columns of `run.logged`.
    """
    stored, counts = rules_of(run), _counts(run)
    columns: dict[str, Sequence[float]] = {}
    for each in stored.rules:
        count = counts[each.rule.id]
        if max(count.fired, each.actions) >= each.rule.max_actions or is_stopped(run, each):
            continue
        when = each.rule.when
        if not when.is_built_in:
            if logged is not None:
                steps, values, bad = column(logged, run.logged, when.scalar)
                _count(each, count, steps, bad if when.comparison is Comparison.IS_NAN else values, now)
            continue
        if scalars is None:
            continue
        if (name := each.rule.when.column) not in columns:
            # A small target throttles nothing unless the run is stabilized.
            known = name not in ("target_min", "throttled") or run.applied.mode is Mode.STABILIZE
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
        has_value=_has_value(run, rule.when),
        warning=scalar_warning(rule.when, run.logged.names()),
    )


def _has_value(run: RunRecord, when: Condition) -> bool:
    """Whether the run ever had a value of the condition's scalar. All but the loss are recorded at each step."""
    if when.scalar == "loss":
        return "loss" in run.progress.latest or run.progress.nonfinite_losses > 0
    return when.is_built_in or when.scalar in run.logged.columns


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
            count = RuleProgress(each.version, 0, each.actions, count.step, count.time, calm=count.calm)
        found[each.rule.id] = count
    return found


def _count(each: StoredRule, count: RuleProgress, steps: Sequence[int], values: Sequence[float], now: float) -> None:
    rule = each.rule
    waits = count.step is not None and now < count.time + rule.cooldown_s
    if waits and rule.when.baseline is None:
        return
    detector, cooldown = (
        Detector(rule.when, DetectorState(count.count, count.steps, count.calm)),
        _cooldown(rule, count),
    )
    for step, value in zip(steps, values, strict=True):
        if detector.observe(step, value, counts=not waits and step not in cooldown):
            # The rest of the batch was recorded before the action can have had any effect.
            count.fired = max(count.fired, each.actions) + 1
            count.step, count.time = step, now
            break
    left = detector.state
    count.count, count.steps, count.calm = left.count, left.steps, left.calm


def _cooldown(rule: WatchRule, count: RuleProgress) -> range:
    """The cooldown steps after an action. They do not bind a run that went back to an earlier step."""
    return range(0) if count.step is None else range(count.step, count.step + rule.cooldown_steps)
