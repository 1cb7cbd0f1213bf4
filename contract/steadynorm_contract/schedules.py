"""Schedules: a change of settings that is made once, when a run reaches a step, such as gamma2 0.999 from 10,000."""

from __future__ import annotations

import enum

import msgspec

from steadynorm_contract.changes import expand

__all__ = ["MAX_SCHEDULES", "NewSchedule", "Schedule", "ScheduleList", "ScheduleState"]

MAX_SCHEDULES = 20
"""That wait, of one run."""


class ScheduleState(enum.StrEnum):
    """Life of a schedule: waiting, then one of the others for good."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"  # the settings of that moment did not allow the change: see `why`


class NewSchedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /runs/{run_id}/schedules.

    from_step: later than where the run is. settings: only what changes; a counter is "+1", one more than it has then;
    `preset` as in `Change`.
    """

    from_step: int
    settings: dict[str, object]
    reason: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "settings", expand(self.settings))


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A change that waits for a step, or was made."""

    id: str
    from_step: int
    settings: dict[str, object]
    reason: str
    created_by: str
    created_at: float  # Unix seconds
    state: ScheduleState = ScheduleState.WAITING
    revision: int | None = None  # the one that it made; null also where there was nothing to change any more
    step: int | None = None  # the run had reached when it was done
    why: str = ""  # it failed, or changed nothing


class ScheduleList(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/schedules: those that wait, the next one first, then the last ones that do not."""

    schedules: list[Schedule]
