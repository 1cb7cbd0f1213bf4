"""Executes due schedules and watch rules exactly once, whichever server process gets to them first.

What is due follows from the stored run alone. The settings change, the completion of its schedule or rule and the event
are written by one script; if anything was changed concurrently, nothing is written and the run is read again.
"""

import logging
from dataclasses import dataclass

import msgspec
from redis.exceptions import RedisError

from steadynorm_contract.changes import Change
from steadynorm_contract.codec import encode_json
from steadynorm_contract.events import EventKind
from steadynorm_contract.schedules import Schedule, ScheduleState
from steadynorm_contract.settings import SettingsError, merge, resolve_increments
from steadynorm_contract.telemetry import Desired
from steadynorm_contract.watch_rules import show_condition
from steadynorm_server.automation import rules, schedules
from steadynorm_server.automation.rule_evaluation import StoredRule, due_rule
from steadynorm_server.errors import ProblemError
from steadynorm_server.runs.events import new_event
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.settings.conditional_writes import check_allowed, compare_and_set
from steadynorm_server.settings.service import AtomicSideEffect, change

_MAX_ACTIONS = 64  # more than can be due at once

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DueAction:
    """A schedule or rule that is due: its actor in the audit, what it changes, and why."""

    item: Schedule | StoredRule
    step: int
    name: str  # in an event
    actor: str
    settings: dict[str, object]
    reason: str

    def completed(self, run: RunRecord, revision: int | None, why: str = "", failed: bool = False) -> tuple[str, bytes]:
        """The field of the run's hash that it is stored in, and that field's value after the action."""
        if isinstance(self.item, Schedule):
            state = ScheduleState.FAILED if failed else ScheduleState.DONE
            done = msgspec.structs.replace(self.item, state=state, revision=revision, step=self.step, why=why)
            return schedules.FIELD, schedules.encode_completed(run, done)
        acted = msgspec.structs.replace(
            self.item, actions=self.item.actions + 1, last_step=self.step, last_revision=revision
        )
        return rules.FIELD, rules.encode_updated(run, acted)

    def event(self, time: float, outcome: str, revision: int | None = None) -> bytes:
        """The event that reports the outcome, as stored."""
        message, value = f"{self.name}: {outcome}", None if revision is None else float(revision)
        return encode_json(new_event(EventKind.AUTOMATION, self.step, time, message, value))


async def run_due_actions(repository: RunRepository, run: RunRecord) -> Desired:
    """Execute all that is due. Returns the desired settings afterwards, as far as they are known."""
    if _next_action(run) is None:
        return run.desired_settings()
    try:
        for _ in range(_MAX_ACTIONS):
            run = await repository.get(run.run_id)
            action = _next_action(run)
            if action is None or not run.is_live:
                break
            await execute(repository, run, action)
            repository.dirty_runs.mark(run.run_id)
    except (RedisError, ProblemError) as error:
        # The batch that made it due is stored: the next one finds it due again.
        _log.warning("run %s: due actions are retried with the next batch (%s)", run.run_id, error)
    return run.desired_settings()


def _next_action(run: RunRecord) -> DueAction | None:
    if (schedule := schedules.due_schedule(run)) is not None:
        actor = f"schedule:{schedule.id} by {schedule.created_by}"
        name = f"schedule {schedule.id} from step {schedule.from_step}"
        return DueAction(schedule, run.step, name, actor, schedule.settings, schedule.reason)
    if (found := due_rule(run)) is not None:
        stored, step = found
        condition = show_condition(stored.rule.when)
        reason = f"{condition}: {stored.rule.reason}" if stored.rule.reason else condition
        actor = f"rule:{stored.rule.id} by {stored.created_by}"
        return DueAction(stored, step, f"rule {stored.rule.id}, {condition}", actor, stored.rule.settings, reason)
    return None


async def execute(repository: RunRepository, run: RunRecord, action: DueAction) -> None:
    """Make the change, or record why not; without effect if the run was changed concurrently."""
    now = repository.clock()
    settings = resolve_increments(action.settings, run.desired)
    outcome, why, failed = "", "", True
    if isinstance(action.item, Schedule) and schedules.may_be_completed(run, action.item):
        why = "Redis was restored to a state from before its step; check whether the change was made."
    else:
        try:
            after = merge(run.desired, settings, run.info.knobs or [])
            if after == run.desired:
                outcome, why, failed = "changed nothing", "the settings already had these values.", False
            check_allowed(run, after)
        except (SettingsError, ProblemError) as error:  # a counter at its maximum, or a new agent that allows less
            why = str(error)
    if why:
        event = action.event(now, f"{outcome or 'did nothing'}: {why}")
        await compare_and_set(repository, run, *action.completed(run, None, why, failed), event=event)
        return
    revision = run.desired_revision + 1
    shown = {name: "off" if value is None else msgspec.json.encode(value).decode() for name, value in settings.items()}
    values = ", ".join(f"{name} {value}" for name, value in shown.items())
    event = action.event(now, f"set {values}, as revision {revision}.", revision)
    side_effect = AtomicSideEffect(*action.completed(run, revision), event)
    try:
        await change(repository, run, Change(settings, action.reason), run.desired_revision, action.actor, side_effect)
    except ProblemError as problem:
        if problem.status not in (409, 412):
            raise
