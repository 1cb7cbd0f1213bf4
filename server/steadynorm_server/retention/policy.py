"""How much memory a run may take in Redis and how long it is retained: server defaults and per-run overrides.

An ended run is deleted `keep_days` after its end. A live one is deleted after as long without telemetry and without a
poll for settings: its process was killed and never returned. A paused live run is never deleted. Of archived runs only
those with a limit of their own are; a run that an operator deleted goes when its time to be restored is over.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.retention import Retention, RetentionChange, RetentionLimits, RetentionUpdate
from steadynorm_contract.settings import FieldError
from steadynorm_server import audit_log
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import ProblemError
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runs.unanswered import Line
from steadynorm_server.settings.conditional_writes import MAX_ATTEMPTS, check_reason, compare_and_set, contention_error

_FIELD = "retention"
DAY_S = 86_400.0
_DEFAULT_MIB = 64.0
_LEAST_DAYS, _MOST_DAYS = 0.1, 36_500.0
_CHANGES_SHOWN = 20

_log = logging.getLogger(__name__)


class _Stored(msgspec.Struct, frozen=True):
    """The value of the hash's field."""

    revision: int = 0
    own: RetentionLimits = RetentionLimits()
    changes: list[RetentionChange] = []


@dataclass(frozen=True, slots=True)
class Limits:
    """The server's limits. max_mib, keep_days: defaults of runs without own ones; ceiling_mib: of any run."""

    max_mib: float = _DEFAULT_MIB
    ceiling_mib: float = _DEFAULT_MIB
    keep_days: float | None = None

    @classmethod
    def from_config(cls, config: ServerConfig) -> Self:
        """The ceiling is at least the default, and equal to it where none is configured."""
        ceiling = max(config.run_mib, config.run_mib_ceiling or config.run_mib)
        return cls(config.run_mib, ceiling, config.retention_days)

    def mib(self, run: RunRecord) -> float:
        """The run's limit in MiB. A ceiling that was lowered applies to limits set before."""
        own = _stored(run).own.max_mib if run.retention else None
        return self.max_mib if own is None else min(own, self.ceiling_mib)

    def days(self, run: RunRecord) -> float | None:
        """Days of silence after which it is deleted. None: never."""
        own = _stored(run).own.keep_days if run.retention else None
        return self.keep_days if own is None else own

    def budget_factor(self, run: RunRecord) -> float:
        """Factor on the byte budgets of its history levels: a limit above the default raises all of them."""
        return max(1.0, self.mib(run) / _DEFAULT_MIB)

    def expires(self, run: RunRecord) -> float | None:
        """Unix seconds at which it is deleted unless its agent is heard from. None: never."""
        if run.removes_at is not None:
            return run.removes_at
        # An archived run is kept: only a limit of its own removes it.
        days = self.days(run) if run.archived_at is None else _stored(run).own.keep_days
        if days is None or (run.is_live and run.desired.paused):
            return None
        # A run that was listed again or restored is kept for as long anew.
        touched = run.lifecycle.changes[0].time if run.lifecycle.changes else 0.0
        return max(run.heard_at, touched) + days * DAY_S


def retention_of(run: RunRecord, limits: Limits) -> Retention:
    """What was set for a run, and its effective limits."""
    stored = _stored(run)
    return Retention(
        revision=stored.revision,
        own=stored.own,
        effective=RetentionLimits(limits.mib(run), limits.days(run)),
        ceiling_mib=limits.ceiling_mib,
        redis_bytes=run.redis_bytes,
        expires=limits.expires(run),
        changes=stored.changes,
    )


async def replace(
    repository: RunRepository, run_id: str, requested: RetentionUpdate, limits: Limits, created_by: str
) -> Retention:
    """Set both of a run's own limits. Values that are already set make no new revision.

    Raises RunNotFound, and problems: 412 for another revision, 422.
    """
    for _ in range(MAX_ATTEMPTS):
        run = await repository.get(run_id)
        _check(requested, limits)
        known, own = _stored(run), RetentionLimits(requested.max_mib, requested.keep_days)
        if requested.revision is not None and requested.revision != known.revision:
            raise ProblemError(
                412,
                f"the retention of {run_id} was changed concurrently: it is at revision {known.revision}, not "
                f"{requested.revision}. Read it again before you replace it.",
            )
        if own == known.own:
            return retention_of(run, limits)
        change = RetentionChange(repository.clock(), created_by, requested.reason, known.own, own)
        changed = _Stored(known.revision + 1, own, [change, *known.changes[: _CHANGES_SHOWN - 1]])
        line = partial(audit_log.record, "retention", run_id, created_by, name=run.name, entry=change)
        if await compare_and_set(repository, run, _FIELD, encode_json(changed), line):
            await repository.index.touch(run_id)
            _log.warning("run %s: its retention was set to %s by %r", run_id, _described(own), created_by)
            return retention_of(await repository.get(run_id), limits)
    raise contention_error(run_id)


async def delete_expired(repository: RunRepository, runs: Sequence[RunRecord], limits: Limits) -> list[str]:
    """Delete those of `runs` that have expired. Returns their ids.

    A run that is heard from, paused or given more time meanwhile is not deleted, also where several processes sweep.
    """
    now = repository.clock()
    due = [run for run in runs if (at := limits.expires(run)) is not None and at < now]
    gone = [run.run_id for run in due if await repository.delete_if_expired(run, _expiry(run))]
    if gone:
        _log.info("removed %d runs whose time has expired: %s", len(gone), ", ".join(gone[:10]))
    return gone


def _expiry(run: RunRecord) -> Line:
    return partial(audit_log.record, "expired", run.run_id, "retention", name=run.name, **run.audit_heads())


def _stored(run: RunRecord) -> _Stored:
    return msgspec.json.decode(run.retention, type=_Stored) if run.retention else _Stored()


def _described(own: RetentionLimits) -> str:
    mib = "the default" if own.max_mib is None else f"{own.max_mib:g} MiB"
    return f"{mib}, {'the default' if own.keep_days is None else f'{own.keep_days:g} days'}"


def _check(requested: RetentionUpdate, limits: Limits) -> None:
    check_reason(requested.reason)
    if errors := list(_errors(requested, limits)):
        raise ProblemError(422, " ".join(each.message for each in errors), title="Invalid retention", errors=errors)


def _errors(requested: RetentionUpdate, limits: Limits) -> Iterator[FieldError]:
    for field, value, least, most, advice in (
        ("max_mib", requested.max_mib, 1.0, limits.ceiling_mib, "STEADYNORM_RUN_MIB_CEILING sets the maximum. "),
        ("keep_days", requested.keep_days, _LEAST_DAYS, _MOST_DAYS, ""),
    ):
        if value is not None and not (math.isfinite(value) and least <= value <= most):
            rule = f"must be default or from {least:g} to {most:g}"
            yield FieldError(field, rule, f"{field} {rule}: got {value:g}. {advice}Default is null in JSON.")
