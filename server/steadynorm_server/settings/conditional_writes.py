"""What schedules and watch rules share: their checks, and writes on condition that nobody was faster.

The hash's field `orders` counts the writes of both. Operators' edits, actions that were made and commits of telemetry
are all on condition of it: whoever deletes a rule and is answered knows that it does nothing any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from steadynorm_contract.settings import COUNTERS, Settings, is_increment, merge, resolve_increments
from steadynorm_server.errors import ProblemError, RunNotFound, invalid
from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.runs.events import MAX_EVENTS
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.settings.service import check_reason, ended

if TYPE_CHECKING:
    from steadynorm_server.runs.repository import RunRepository

__all__ = ["ATTEMPTS", "busy", "edit", "validate_deferred_change"]

ATTEMPTS = 8


def validate_deferred_change(run: RunRecord, settings: Mapping[str, object], reason: str) -> None:
    """Whether a change can be meant for later. Raises SettingsError, and problems: 409 for an ended run, 422."""
    check_reason(reason)
    if not settings:
        rule = "must name at least one setting"
        raise invalid("settings", rule, f'settings {rule}: got none. Such as {{"gamma2": 0.999}}.')
    for name in COUNTERS:
        if name in settings and not is_increment(settings[name]):
            rule = 'must be "+1", or as many more'
            raise invalid(name, rule, f"{name} {rule}: nobody knows today what it will be then.")
    merge(Settings(), resolve_increments(settings, Settings()))
    if run.info.allow is not None and (outside := [name for name in settings if name not in run.info.allow]):
        rule = "must be among those that the run's agent allows"
        allowed = ", ".join(run.info.allow) or "none"
        raise invalid(outside[0], rule, f"{', '.join(outside)} {rule}: it allows {allowed}.")
    if run.state != "running":
        raise ended(run.run_id, run.state)


async def edit(repository: RunRepository, run: RunRecord, field: str, text: bytes, event: bytes = b"") -> bool:
    """Write the field, unless schedules or rules changed since `run` was read. Returns whether it was written."""
    keys = RunKeys(run.run_id)
    answer = await repository.redis.script(
        "orders", [keys.run, keys.events], run.orders, field, text, event, MAX_EVENTS
    )
    if answer == b"gone":
        raise RunNotFound(run.run_id)
    return bool(answer == b"ok")


def busy(run_id: str) -> ProblemError:
    """503: others were faster, again and again."""
    return ProblemError(503, f"run {run_id} is being changed by many at once; try again.", headers={"Retry-After": "1"})
