"""Runs as this process last committed them, so that the next batch of a run is committed without reading it first.

Entries are guesses: the commit compares them with Redis (`RunRecord.expected`). Where another process, an operator or a
restored backup changed the run, the entry is dropped and the run is read.
"""

from dataclasses import dataclass

from steadynorm_server.runs.lru_cache import LRUCache
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.timeseries.peaks import Peaks

_RECORD_BYTES = 16_384  # of a decoded hash, generously


@dataclass(slots=True)
class CachedRun:
    """A run and, once a batch with rows needed them, its peaks."""

    run: RunRecord
    peaks: Peaks | None = None
    from_redis: bool = True  # just read, so it is current; otherwise as this process left it


class RunCache:
    """Bounded by memory; the least recently used run is evicted first."""

    def __init__(self, max_bytes: int = 48 * 1024 * 1024) -> None:
        self._runs: LRUCache[CachedRun] = LRUCache(max_bytes, _size)

    def take(self, run_id: str) -> CachedRun | None:
        """Remove and return a run's entry, so that two batches never work on one record."""
        return self._runs.pop(run_id)

    def put(self, cached: CachedRun) -> None:
        """Store a run that was just committed."""
        cached.from_redis = False
        self._runs.put(cached.run.run_id, cached)


def _size(cached: CachedRun) -> int:
    return _RECORD_BYTES + (cached.peaks.ratios.nbytes + cached.peaks.spikes.nbytes if cached.peaks else 0)
