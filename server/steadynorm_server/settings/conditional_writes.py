"""Compare-and-set writes of schedules, rules, retention and lifecycle, and the checks that deferred changes share.

The hash's field `automation_version` counts these writes. Operators' edits, executed actions and telemetry commits all
depend on it: once a DELETE of a rule is answered, that rule has no further effect.
"""

import contextlib
import secrets
from collections.abc import Iterable, Mapping, Sequence

from steadynorm_contract.knobs import is_allowed, is_knob
from steadynorm_contract.settings import (
    COUNTERS,
    LATER_SETTINGS,
    Settings,
    by_name,
    is_increment,
    merge,
    resolve_increments,
)
from steadynorm_server.errors import ProblemError, RunNotFound, invalid
from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.runs.events import MAX_EVENTS
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runs.unanswered import Line

MAX_ATTEMPTS = 8
"""Of a write that other writers keep winning; then `contention_error`."""

_MAX_REASON = 500


def validate_deferred_change(run: RunRecord, settings: Mapping[str, object], reason: str) -> None:
    """Check a change that is applied later. Raises SettingsError, and problems: 409 for an ended run, 422."""
    check_reason(reason)
    if not settings:
        rule = "must name at least one setting"
        raise invalid("settings", rule, f'settings {rule}: got none. Example: {{"gamma2": 0.999}}.')
    for name in COUNTERS:
        if name in settings and not is_increment(settings[name]):
            rule = 'must be an increment such as "+1"'
            raise invalid(name, rule, f"{name} {rule}: its value at that time is not known in advance.")
    merge(Settings(), resolve_increments(settings, Settings()), run.info.knobs or [])
    _require_allowed(run, settings)
    if not run.is_live:
        raise run_ended(run.run_id, run.state)


def not_allowed(run: RunRecord, names: Iterable[str]) -> list[str]:
    """Settings among `names` that the run's agent does not let operators change."""
    return [name for name in names if not is_allowed(name, run.info.allow)]


def is_older(run: RunRecord, names: Iterable[str]) -> list[str]:
    """Settings among `names` that the run's agent is older than: it would reject them and all later revisions."""
    return [name for name in names if run.info.knobs is None and (is_knob(name) or name in LATER_SETTINGS)]


def check_allowed(run: RunRecord, settings: Settings) -> None:
    """Raises a 422 problem for settings that the agent would reject, and with them every later revision.

    Back to what it trains with is always possible.
    """
    known = (by_name(run.desired), by_name(run.applied))
    wanted = by_name(settings).items()
    _require_allowed(run, [name for name, value in wanted if all(each.get(name, _NONE) != value for each in known)])


_NONE = object()


def _require_allowed(run: RunRecord, names: Iterable[str]) -> None:
    names = list(names)
    if later := is_older(run, names):
        rule = "must be a setting that the run's agent has"
        raise invalid(later[0], rule, f"{later[0]} {rule}: it is older than this setting. Upgrade steadynorm there.")
    if outside := not_allowed(run, names):
        rule = "must be among those that the run's agent allows"
        raise invalid(outside[0], rule, f"{', '.join(outside)} {rule}: {', '.join(run.info.allow or ()) or 'none'}.")


async def compare_and_set(
    repository: RunRepository, run: RunRecord, field: str, value: bytes, line: Line | None = None, event: bytes = b""
) -> bool:
    """Write a field unless `automation_version` moved since `run` was read. Returns whether. Raises RunNotFound.

    line: of the audit stream, written with it, also where Redis' answer was lost.
    """
    keys, lines, this_write = RunKeys(run.run_id), [] if line is None else [line], secrets.token_hex(8)

    async def look() -> Sequence[Line]:
        (writes,) = await repository.redis.fields([(keys.run, "automation_writes")])
        return lines if this_write.encode() in (writes or b"") else ()

    with repository.unanswered.following(this_write, look, lines) if lines else contextlib.nullcontext():
        answer = await repository.redis.script(
            "compare_and_set",
            [keys.run, keys.events],
            *(run.automation_version, field, value, event, MAX_EVENTS, this_write),
        )
    if answer == b"not_found":
        raise RunNotFound(run.run_id)
    if answer == b"ok" and line is not None:
        line()
    return bool(answer == b"ok")


def check_reason(reason: str) -> None:
    """Raises a 422 problem for a reason that is too long."""
    if len(reason) > _MAX_REASON:
        rule = f"must have at most {_MAX_REASON} characters"
        raise invalid("reason", rule, f"reason {rule}: got {len(reason)}.")


def contention_error(run_id: str) -> ProblemError:
    """503: other writers won every attempt."""
    message = f"run {run_id} is being changed by too many writers at once; try again."
    return ProblemError(503, message, headers={"Retry-After": "1"})


def run_ended(run_id: str, state: str) -> ProblemError:
    """409: no agent would apply the change."""
    return ProblemError(
        409, f"run {run_id} has ended ({state}): no agent is left to apply a change.", title="Run has ended"
    )
