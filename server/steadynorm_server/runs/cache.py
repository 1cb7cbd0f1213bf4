"""Runs as this process left them: a batch that follows on its own last one reads nothing before it is committed.

No state in the sense that counts: every entry is a guess, which the commit's own condition (`RunRecord.expected`)
checks in the store. Where another process, an operator or an older copy of the store was faster, the guess is dropped
and the run is read.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from steadynorm_server.runs.record import RunRecord
from steadynorm_server.timeseries.peaks import Peaks

__all__ = ["CachedRun", "RunCache"]

_RECORD_BYTES = 16_384  # of a decoded hash, generously


@dataclass(slots=True)
class CachedRun:
    """A run and, once a batch with rows needed them, its peaks."""

    run: RunRecord
    peaks: Peaks | None = None
    fresh: bool = True  # read from the store just now, so what it says needs no second look


class RunCache:
    """Bounded by the memory that it takes; what was used longest ago goes first."""

    def __init__(self, max_bytes: int = 48 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._runs: OrderedDict[str, CachedRun] = OrderedDict()

    def take(self, run_id: str) -> CachedRun | None:
        """What is known of a run. It is gone from here until it is put back: two batches never work on one record."""
        if (known := self._runs.pop(run_id, None)) is not None:
            self._bytes -= _size(known)
        return known

    def put(self, known: CachedRun) -> None:
        """Keep what was just committed."""
        self.take(known.run.run_id)
        known.fresh = False
        self._runs[known.run.run_id] = known
        self._bytes += _size(known)
        while self._bytes > self._max_bytes:
            self._bytes -= _size(self._runs.popitem(last=False)[1])


def _size(known: CachedRun) -> int:
    return _RECORD_BYTES + (known.peaks.ratios.nbytes + known.peaks.spikes.nbytes if known.peaks else 0)
