"""Changes that wait for a step, in the hash's field `schedules`: given by operators, settled by `orders`."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.schedules import MAX_SCHEDULES, NewSchedule, Schedule, ScheduleList, ScheduleState
from steadynorm_server.errors import ProblemError, invalid
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.settings.conditional_writes import ATTEMPTS, busy, edit, validate_deferred_change

if TYPE_CHECKING:
    from steadynorm_server.runs.repository import RunRepository

__all__ = ["FIELD", "create", "due_schedule", "listed", "remove", "settled", "was_perhaps_made"]

FIELD = "schedules"
_KEPT = 20
"""Settled ones that are still shown."""
_MAX_STEP = 2**53 - 1


async def create(repository: RunRepository, run_id: str, new: NewSchedule, created_by: str) -> Schedule:
    """A schedule that waits. Raises RunNotFound, and problems: 409 for an ended run, 422 for what cannot be."""
    for _ in range(ATTEMPTS):
        run = await repository.find(run_id)
        validate_deferred_change(run, new.settings, new.reason)
        if not run.step < new.from_step <= _MAX_STEP:
            rule = "must be a step that the run has not reached yet"
            raise invalid(
                "from_step",
                rule,
                f"from_step {rule}: got {new.from_step}, the run is at step {run.step}. To change it now: "
                "PATCH its settings, or `steadynorm set`.",
            )
        known = listed(run).schedules
        if sum(each.state is ScheduleState.WAITING for each in known) >= MAX_SCHEDULES:
            rule = f"must be at most {MAX_SCHEDULES} that wait"
            raise invalid("schedules", rule, f"schedules {rule}: run {run_id} has so many. Delete one first.")
        made = Schedule(
            id=secrets.token_hex(4),
            from_step=new.from_step,
            settings=new.settings,
            reason=new.reason,
            created_by=created_by,
            created_at=repository.clock(),
        )
        if await edit(repository, run, FIELD, _written([*known, made])):
            return made
    raise busy(run_id)


async def remove(repository: RunRepository, run_id: str, schedule_id: str) -> None:
    """Take one back. Raises RunNotFound, and problems: 404 for an unknown one, 409 for one that is settled."""
    for _ in range(ATTEMPTS):
        run = await repository.find(run_id)
        known = listed(run).schedules
        found = next((each for each in known if each.id == schedule_id), None)
        if found is None:
            raise ProblemError(
                404, f"run {run_id} has no schedule {schedule_id[:60]!r}. GET its schedules to see them.",
                title="Schedule not found",
            )  # fmt: skip
        if found.state is not ScheduleState.WAITING:
            undo = f" as revision {found.revision}; `steadynorm undo` takes it back" if found.revision else ""
            raise ProblemError(409, f"schedule {found.id} is {found.state} since step {found.step}{undo}.")
        if await edit(repository, run, FIELD, _written([each for each in known if each is not found])):
            return
    raise busy(run_id)


def listed(run: RunRecord) -> ScheduleList:
    """All of a run, those that wait first, by step; then the settled ones, the last one first."""
    known = msgspec.json.decode(run.schedules, type=list[Schedule]) if run.schedules else []
    waiting = sorted((each for each in known if each.state is ScheduleState.WAITING), key=lambda each: each.from_step)
    return ScheduleList([*waiting, *(each for each in known if each.state is not ScheduleState.WAITING)])


def due_schedule(run: RunRecord) -> Schedule | None:
    """The first one whose step the run has reached."""
    if not run.schedules:
        return None
    first = next(iter(listed(run).schedules), None)
    due = first is not None and first.state is ScheduleState.WAITING and first.from_step <= run.step
    return first if due else None


def was_perhaps_made(run: RunRecord, schedule: Schedule) -> bool:
    """Whether a store that lost changes may have lost this one with them."""
    return schedule.created_at <= run.put_back_time and schedule.from_step <= run.put_back_step


def settled(run: RunRecord, done: Schedule) -> bytes:
    """The field's text once the schedule of that id is `done`."""
    known = [each for each in listed(run).schedules if each.id != done.id]
    waiting = [each for each in known if each.state is ScheduleState.WAITING]
    return _written([*waiting, done, *known[len(waiting) :][: _KEPT - 1]])


def _written(schedules: list[Schedule]) -> bytes:
    return encode_json(schedules)
