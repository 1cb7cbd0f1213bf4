"""What one run may take in the store and how long it is kept: the server's defaults, and what operators set for a run.

A run that has ended is removed once `keep_days` have gone by since its end; one that has not, once nothing was heard
of its agent for as long, neither telemetry nor that it listens for settings: its process was killed and never came
back. A run that is paused and has not ended stays: whoever paused it means it to go on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.retention import Retention, RetentionChange, RetentionLimits, RetentionUpdate
from steadynorm_contract.settings import FieldError
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import ProblemError
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.settings.conditional_writes import ATTEMPTS, busy, edit
from steadynorm_server.settings.service import check_reason

if TYPE_CHECKING:
    from steadynorm_server.runs.repository import RunRepository

__all__ = ["FIELD", "Limits", "forget_old", "replace", "shown"]

FIELD = "retention"
_DAY_S = 86_400.0
_DEFAULT_MIB = 64.0
_LEAST_DAYS, _MOST_DAYS = 0.1, 36_500.0
_SHOWN = 20
"""Changes that are still told."""

_log = logging.getLogger(__name__)


class _Stored(msgspec.Struct, frozen=True):
    """The hash's field."""

    revision: int = 0
    own: RetentionLimits = RetentionLimits()
    changes: list[RetentionChange] = []


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server says. max_mib, keep_days: of runs without a word of their own; ceiling_mib: of any run."""

    max_mib: float = _DEFAULT_MIB
    ceiling_mib: float = _DEFAULT_MIB
    keep_days: float | None = None

    @staticmethod
    def of(settings: ServerConfig) -> Limits:
        """From the server's settings: without a ceiling the default is one, and no ceiling is below it."""
        ceiling = max(settings.run_mib, settings.run_mib_ceiling or settings.run_mib)
        return Limits(settings.run_mib, ceiling, settings.retention_days)

    def mib(self, run: RunRecord) -> float:
        """What the run may take. A ceiling that was lowered since holds for what was set before."""
        own = _stored(run).own.max_mib if run.retention else None
        return self.max_mib if own is None else min(own, self.ceiling_mib)

    def days(self, run: RunRecord) -> float | None:
        """How long it is kept in silence. None: for ever."""
        own = _stored(run).own.keep_days if run.retention else None
        return self.keep_days if own is None else own

    def budgets(self, run: RunRecord) -> float:
        """Factor on the budgets of its history's levels: of a limit above the default each level has its part."""
        return max(1.0, self.mib(run) / _DEFAULT_MIB)

    def expires(self, run: RunRecord) -> float | None:
        """Unix seconds at which it is removed unless it is heard of. None: it stays, as things stand."""
        days, going = self.days(run), run.state == "running"
        if days is None or (going and run.desired.paused):
            return None
        return (max(run.last_seen, run.listening) if going else run.last_seen) + days * _DAY_S


def shown(run: RunRecord, limits: Limits) -> Retention:
    """What was set for a run, and what holds for it."""
    stored = _stored(run)
    return Retention(
        revision=stored.revision,
        own=stored.own,
        in_force=RetentionLimits(limits.mib(run), limits.days(run)),
        ceiling_mib=limits.ceiling_mib,
        store_bytes=run.store_bytes,
        expires=limits.expires(run),
        changes=stored.changes,
    )


async def replace(
    repository: RunRepository, run_id: str, wanted: RetentionUpdate, limits: Limits, created_by: str
) -> Retention:
    """Set a run's own limits, both of them. What is so already is no change, and no new revision.

    Raises RunNotFound, and problems: 412 when somebody was faster, 422.
    """
    for _ in range(ATTEMPTS):
        run = await repository.find(run_id)
        _check(wanted, limits)
        known, own = _stored(run), RetentionLimits(wanted.max_mib, wanted.keep_days)
        if wanted.revision is not None and wanted.revision != known.revision:
            raise ProblemError(
                412,
                f"the retention of {run_id} is at revision {known.revision}, this was meant to replace "
                f"{wanted.revision}. Read it again and decide anew.",
            )
        if own == known.own:
            return shown(run, limits)
        change = RetentionChange(repository.clock(), created_by, wanted.reason, known.own, own)
        changed = _Stored(known.revision + 1, own, [change, *known.changes[: _SHOWN - 1]])
        if await edit(repository, run, FIELD, encode_json(changed)):
            _log.warning("run %s: its retention was set to %s by %r", run_id, _told(own), created_by)
            return shown(await repository.find(run_id), limits)
    raise busy(run_id)


async def forget_old(repository: RunRepository, runs: Sequence[RunRecord], limits: Limits) -> list[str]:
    """Remove those of `runs` whose time has come. Returns their ids.

    One that is heard of meanwhile, paused, or given more time stays, also where several processes sweep.
    """
    now = repository.clock()
    due = [run for run in runs if (at := limits.expires(run)) is not None and at < now]
    gone = [run.run_id for run in due if await repository.forget(run)]
    if gone:
        _log.info("%d runs were removed, silent for longer than they are kept: %s", len(gone), ", ".join(gone[:10]))
    return gone


def _stored(run: RunRecord) -> _Stored:
    return msgspec.json.decode(run.retention, type=_Stored) if run.retention else _Stored()


def _told(own: RetentionLimits) -> str:
    mib = "the default" if own.max_mib is None else f"{own.max_mib:g} MiB"
    return f"{mib}, {'the default' if own.keep_days is None else f'{own.keep_days:g} days'}"


def _check(wanted: RetentionUpdate, limits: Limits) -> None:
    check_reason(wanted.reason)
    if errors := list(_errors(wanted, limits)):
        raise ProblemError(422, " ".join(each.message for each in errors), title="Invalid retention", errors=errors)


def _errors(wanted: RetentionUpdate, limits: Limits) -> Iterator[FieldError]:
    for field, value, least, most, advice in (
        (
            "max_mib",
            wanted.max_mib,
            1.0,
            limits.ceiling_mib,
            "More than that is STEADYNORM_RUN_MIB_CEILING's to allow.",
        ),
        ("keep_days", wanted.keep_days, _LEAST_DAYS, _MOST_DAYS, "Null is the server's default."),
    ):
        if value is not None and not (math.isfinite(value) and least <= value <= most):
            rule = f"must be null or from {least:g} to {most:g}"
            yield FieldError(field, rule, f"{field} {rule}: got {value:g}. {advice}")
