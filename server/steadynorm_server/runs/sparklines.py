"""Sparklines of the fleet: a run's loss and raw norm in a few buckets, kept in this process for as long as they hold.

What is kept can always be read again from the history, so any number of processes answer alike. A run that takes no
steps costs nothing; one that does is read again every few seconds, and never more than fit into a moment: who opens
the page of a thousand runs gets the table at once and the lines as they are ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from steadynorm_contract.fleet import Spark
from steadynorm_contract.series import Series
from steadynorm_server.errors import RunNotFound
from steadynorm_server.runs.queries import RunQueries
from steadynorm_server.runs.record import RunRecord

__all__ = ["SparklineCache"]

POINTS = 40
_NAMES = ("loss", "raw_norm")
_WITHIN_S = 0.5
_AT_ONCE = 8
_MANY = 5000

_Pair = tuple[Spark, Spark]


@dataclass(slots=True)
class _Kept:
    """state: what the lines were worked out from. read: monotonic seconds."""

    state: tuple[int, int, int]
    read: float
    lines: _Pair


class SparklineCache:
    """Of one process and one store. fresh_s: how long the lines of a run that takes steps are kept."""

    def __init__(self, reader: RunQueries, fresh_s: float) -> None:
        self._reader = reader
        self._fresh_s = fresh_s
        self._kept: dict[str, _Kept] = {}
        self._busy: set[str] = set()

    async def of(self, runs: Sequence[RunRecord], within_s: float = _WITHIN_S) -> dict[str, _Pair]:
        """Loss and raw norm by run id; without those that were not ready in time."""
        deadline = time.monotonic() + within_s
        stale = [run for run in runs if run.run_id not in self._busy and not self._holds(run)]
        stale.sort(key=lambda run: run.run_id in self._kept)  # those first that have no lines at all
        waiting = iter(stale)

        async def work() -> None:
            for run in waiting:
                if time.monotonic() > deadline:
                    return
                self._busy.add(run.run_id)
                try:
                    with contextlib.suppress(RunNotFound):  # deleted meanwhile
                        await self._read(run)
                finally:
                    self._busy.discard(run.run_id)

        await asyncio.gather(*(work() for _ in range(min(_AT_ONCE, len(stale)))))
        return {run.run_id: kept.lines for run in runs if (kept := self._kept.get(run.run_id)) is not None}

    def _holds(self, run: RunRecord) -> bool:
        kept = self._kept.get(run.run_id)
        if kept is None:
            return run.progress.last_step is None
        return kept.state == _state(run) or time.monotonic() - kept.read < self._fresh_s

    async def _read(self, run: RunRecord) -> None:
        found = (await self._reader.series(run.run_id, _NAMES, None, None, POINTS)).series
        while len(self._kept) >= _MANY:
            self._kept.pop(next(iter(self._kept)))
        self._kept.pop(run.run_id, None)
        loss, norm = (_spark(found[name]) for name in _NAMES)
        self._kept[run.run_id] = _Kept(_state(run), time.monotonic(), (loss, norm))


def _state(run: RunRecord) -> tuple[int, int, int]:
    return (run.incarnation, run.sequence, run.progress.steps)


def _spark(series: Series) -> Spark:
    return Spark(*([_short(value) for value in values] for values in (series.min, series.max, series.mean)))


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
