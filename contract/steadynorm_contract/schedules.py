"""Schedules: a change of settings that is made once a run reaches a step, such as gamma2=0.999 from step 10,000."""

import enum

import msgspec

from steadynorm_contract.changes import Change

__all__ = ["MAX_SCHEDULES", "NewSchedule", "Schedule", "ScheduleList", "ScheduleState"]

MAX_SCHEDULES = 20
"""Waiting schedules of one run."""


class ScheduleState(enum.StrEnum):
    """Life cycle of a schedule: waiting, then one of the others, which are final."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"  # the change was invalid for the settings at that time: see `why`


class NewSchedule(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /runs/{run_id}/schedules.

    from_step: above the run's present step. settings: as in `Change`; counters as increments such as "+1", resolved
    when the step is reached.
    """

    from_step: int


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A scheduled change and its outcome."""

    id: str
    from_step: int
    settings: dict[str, object]
    reason: str
    created_by: str
    created_at: float  # Unix seconds
    state: ScheduleState = ScheduleState.WAITING
    revision: int | None = None  # that it made; null also where nothing was left to change
    step: int | None = None  # that the run had reached when the change was made
    why: str = ""  # the change failed, or changed nothing


class ScheduleList(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/schedules: waiting ones first, the next one on top, then the latest finished ones."""

    schedules: list[Schedule]
