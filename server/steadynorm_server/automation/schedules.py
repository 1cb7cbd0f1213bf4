"""Settings changes scheduled for a step, stored in the hash's field `schedules`."""

import secrets
from functools import partial

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.schedules import MAX_SCHEDULES, NewSchedule, Schedule, ScheduleList, ScheduleState
from steadynorm_server import audit_log
from steadynorm_server.errors import ProblemError, invalid
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.settings.conditional_writes import (
    MAX_ATTEMPTS,
    compare_and_set,
    contention_error,
    validate_deferred_change,
)

FIELD = "schedules"
_COMPLETED_SHOWN = 20
_MAX_STEP = 2**53 - 1


async def create(repository: RunRepository, run_id: str, new: NewSchedule, created_by: str) -> Schedule:
    """Add a schedule. Raises RunNotFound, and problems: 409 for an ended run, 422 for an invalid schedule."""
    for _ in range(MAX_ATTEMPTS):
        run = await repository.get(run_id)
        validate_deferred_change(run, new.settings, new.reason)
        if not run.step < new.from_step <= _MAX_STEP:
            rule = "must be a step that the run has not reached yet"
            raise invalid(
                "from_step",
                rule,
                f"from_step {rule}: got {new.from_step}, the run is at step {run.step}. To change it now, "
                "PATCH its settings or use `steadynorm set`.",
            )
        known = list_schedules(run).schedules
        if sum(each.state is ScheduleState.WAITING for each in known) >= MAX_SCHEDULES:
            rule = f"must be at most {MAX_SCHEDULES} waiting ones"
            raise invalid("schedules", rule, f"schedules {rule}: run {run_id} has that many. Delete one first.")
        made = Schedule(
            id=secrets.token_hex(4), created_by=created_by, created_at=repository.clock(), **msgspec.structs.asdict(new)
        )
        line = partial(audit_log.record, "schedule", run_id, created_by, name=run.name, entry=made)
        if await compare_and_set(repository, run, FIELD, encode_json([*known, made]), line):
            return made
    raise contention_error(run_id)


async def delete(repository: RunRepository, run_id: str, schedule_id: str, actor: str) -> None:
    """Delete a waiting one. Raises RunNotFound, and problems: 404 for an unknown one, 409 for a completed one."""
    for _ in range(MAX_ATTEMPTS):
        run = await repository.get(run_id)
        known = list_schedules(run).schedules
        found = next((each for each in known if each.id == schedule_id), None)
        if found is None:
            raise ProblemError(
                404, f"run {run_id} has no schedule {schedule_id[:60]!r}. `steadynorm schedules` lists them.",
                title="Schedule not found",
            )  # fmt: skip
        if found.state is not ScheduleState.WAITING:
            undo = f" as revision {found.revision}; `steadynorm undo` reverts it" if found.revision else ""
            raise ProblemError(409, f"schedule {found.id} is {found.state}, at step {found.step}{undo}.")
        left = encode_json([each for each in known if each is not found])
        line = partial(audit_log.record, "unscheduled", run_id, actor, name=run.name, entry=found)
        if await compare_and_set(repository, run, FIELD, left, line):
            return
    raise contention_error(run_id)


def list_schedules(run: RunRecord) -> ScheduleList:
    """All of a run: waiting ones first, by step; then completed ones, the latest first."""
    known = msgspec.json.decode(run.schedules, type=list[Schedule]) if run.schedules else []
    waiting = sorted((each for each in known if each.state is ScheduleState.WAITING), key=lambda each: each.from_step)
    return ScheduleList([*waiting, *(each for each in known if each.state is not ScheduleState.WAITING)])


def due_schedule(run: RunRecord) -> Schedule | None:
    """The first one whose step the run has reached."""
    if not run.schedules:
        return None
    first = next(iter(list_schedules(run).schedules), None)
    due = first is not None and first.state is ScheduleState.WAITING and first.from_step <= run.step
    return first if due else None


def may_be_completed(run: RunRecord, schedule: Schedule) -> bool:
    """Whether it may have run before Redis was restored from a backup that does not have its change."""
    return schedule.created_at <= run.rollback_time and schedule.from_step <= run.rollback_step


def encode_completed(run: RunRecord, completed: Schedule) -> bytes:
    """The field's value with the schedule of that id replaced by `completed`."""
    known = [each for each in list_schedules(run).schedules if each.id != completed.id]
    waiting = [each for each in known if each.state is ScheduleState.WAITING]
    return encode_json([*waiting, completed, *known[len(waiting) :][: _COMPLETED_SHOWN - 1]])
