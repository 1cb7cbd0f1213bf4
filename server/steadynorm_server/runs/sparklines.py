"""Sparklines of the runs overview: loss and raw norm in a few buckets, cached in this process.

They are derived from the history, so any number of processes give the same answers. A run that takes no steps is not
read again; one that does is read every few seconds, within a time limit per request: a page of a thousand runs has its
table at once, and its sparklines as they are ready.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from steadynorm_contract.fleet import Spark
from steadynorm_contract.series import Series
from steadynorm_server.errors import RunNotFound
from steadynorm_server.runs.lru_cache import LRUCache
from steadynorm_server.runs.queries import RunQueries
from steadynorm_server.runs.record import RunRecord

POINTS = 40
_NAMES = ("loss", "raw_norm")
_WITHIN_S = 0.5
_CONCURRENCY = 8
_MAX_RUNS = 5000

_Pair = tuple[Spark, Spark]


@dataclass(slots=True)
class _Cached:
    """state: what the sparklines were made from. read: monotonic seconds."""

    state: tuple[int, int, int]
    read: float
    lines: _Pair


class SparklineCache:
    """Of one process. fresh_s: how long the sparklines of a run that takes steps are reused."""

    def __init__(self, queries: RunQueries, fresh_s: float) -> None:
        self._queries = queries
        self._fresh_s = fresh_s
        self._cached: LRUCache[_Cached] = LRUCache(_MAX_RUNS)
        self._busy: set[str] = set()

    async def get(self, runs: Sequence[RunRecord], within_s: float = _WITHIN_S) -> dict[str, _Pair]:
        """Loss and raw norm by run id, without those that were not ready in time."""
        deadline = time.monotonic() + within_s
        stale = [run for run in runs if run.run_id not in self._busy and not self._is_current(run)]
        stale.sort(key=lambda run: run.run_id in self._cached)  # first those without any
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

        await asyncio.gather(*(work() for _ in range(min(_CONCURRENCY, len(stale)))))
        return {run.run_id: cached.lines for run in runs if (cached := self._cached.get(run.run_id)) is not None}

    def _is_current(self, run: RunRecord) -> bool:
        cached = self._cached.get(run.run_id)
        if cached is None:
            return run.progress.last_step is None
        return cached.state == _state(run) or time.monotonic() - cached.read < self._fresh_s

    async def _read(self, run: RunRecord) -> None:
        found = (await self._queries.series(run.run_id, _NAMES, None, None, POINTS)).series
        loss, norm = (_spark(found[name]) for name in _NAMES)
        self._cached.put(run.run_id, _Cached(_state(run), time.monotonic(), (loss, norm)))


def _state(run: RunRecord) -> tuple[int, int, int]:
    return (run.incarnation, run.sequence, run.progress.steps)


def _spark(series: Series) -> Spark:
    return Spark(*([_short(value) for value in values] for values in (series.min, series.max, series.mean)))


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
