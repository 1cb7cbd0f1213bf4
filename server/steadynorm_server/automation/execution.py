"""Schedules and watch rules, carried out: exactly once, by whichever process notices first.

What is due follows from the stored run alone. A change is made by `desired.change`, and in the same moment of the store
the schedule or the rule is settled and the event written; should somebody else have changed either meanwhile, nothing
of it happens, and it is looked at anew.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from redis.exceptions import RedisError

from steadynorm_contract.changes import Change
from steadynorm_contract.codec import encode_json
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.schedules import Schedule, ScheduleState
from steadynorm_contract.settings import SettingsError, merge, resolve_increments
from steadynorm_contract.telemetry import Desired
from steadynorm_contract.watch_rules import show_condition
from steadynorm_server.automation import rules, schedules
from steadynorm_server.automation.rule_evaluation import StoredRule, due_rule
from steadynorm_server.errors import ProblemError
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.settings.conditional_writes import edit
from steadynorm_server.settings.service import AtomicSideEffect, change

if TYPE_CHECKING:
    from steadynorm_server.runs.repository import RunRepository

__all__ = ["is_due", "run_due_actions"]

_ATTEMPTS = 64  # more than can be due at once

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DueAction:
    """Something due: who it is, as in the audit, what it changes, and why."""

    item: Schedule | StoredRule
    step: int
    name: str  # in an event
    actor: str
    settings: dict[str, object]
    reason: str

    def settled(self, run: RunRecord, revision: int | None, why: str = "", failed: bool = False) -> tuple[str, bytes]:
        """The hash's field that it stands in, and what is written there once it is done."""
        if isinstance(self.item, Schedule):
            state = ScheduleState.FAILED if failed else ScheduleState.DONE
            done = msgspec.structs.replace(self.item, state=state, revision=revision, step=self.step, why=why)
            return schedules.FIELD, schedules.settled(run, done)
        acted = msgspec.structs.replace(
            self.item, actions=self.item.actions + 1, last_step=self.step, last_revision=revision
        )
        return rules.FIELD, rules.settled(run, acted)


def is_due(run: RunRecord) -> bool:
    """Whether there is something to carry out."""
    return due_rule(run) is not None or schedules.due_schedule(run) is not None


async def run_due_actions(repository: RunRepository, run: RunRecord) -> Desired:
    """Do all that is due. Returns the settings that are desired then, as far as they are known."""
    try:
        for _ in range(_ATTEMPTS):
            run = await repository.find(run.run_id)
            order = _next(run)
            if order is None or run.state != "running":
                break
            await _follow(repository, run, order)
            repository.news.note(run.run_id)
    except (RedisError, ProblemError) as error:
        # The batch that brought it here is stored: the next one finds it due again.
        _log.warning("run %s: what is due waits for the next batch (%s)", run.run_id, error)
    return run.wanted()


def _next(run: RunRecord) -> DueAction | None:
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


async def _follow(repository: RunRepository, run: RunRecord, order: DueAction) -> None:
    """Make the change, unless somebody was faster with anything at all."""
    if isinstance(order.item, Schedule) and schedules.was_perhaps_made(run, order.item):
        why = "the store was put back to an older state after its step: look whether it was made."
        await edit(
            repository,
            run,
            *order.settled(run, None, why, failed=True),
            _event(repository, order, f"did nothing: {why}"),
        )
        return
    wanted = resolve_increments(order.settings, run.desired)
    try:
        after = merge(run.desired, wanted)
    except SettingsError as error:  # a counter at its end
        why = str(error)
        await edit(
            repository,
            run,
            *order.settled(run, None, why, failed=True),
            _event(repository, order, f"did nothing: {why}"),
        )
        return
    if after == run.desired:
        why = "the settings were so already."
        await edit(
            repository, run, *order.settled(run, None, why), _event(repository, order, f"changed nothing: {why}")
        )
        return
    revision = run.desired_revision + 1
    told = ", ".join(f"{name} {msgspec.json.encode(value).decode()}" for name, value in wanted.items())
    event = _event(repository, order, f"set {told}, as revision {revision}.", revision)
    settling = AtomicSideEffect(run.orders, *order.settled(run, revision), event)
    try:
        await change(repository, run.run_id, Change(wanted, order.reason), run.desired_revision, order.actor, settling)
    except ProblemError as problem:
        if problem.status not in (409, 412):
            raise


def _event(repository: RunRepository, order: DueAction, what: str, revision: int | None = None) -> bytes:
    value = None if revision is None else float(revision)
    message = f"{order.name}: {what}"
    return encode_json(
        Event(id="", kind=EventKind.AUTOMATION, step=order.step, time=repository.clock(), message=message, value=value)
    )
