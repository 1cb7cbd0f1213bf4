"""Enforces the size limit of a run: the oldest entries of its finest history are dropped first.

The history levels have budgets of their own, which add up to 64 MiB. Under a lower limit, single steps of the past are
dropped before the buckets of 16, 256 or 4096 steps, so that the whole run remains, coarser, with all its extremes. Each
level but the coarsest retains a sixteenth of the limit for the recent past while other levels have more.
"""

import logging
from collections.abc import Sequence

from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.retention.policy import Limits
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.timeseries.rollups import LOGGED, ROWS, SCALARS

_MIB = 2**20
_TARGET = 7 / 8  # of the limit: a run grows between two sweeps
_RETAINED = 1 / 16  # of the limit, by each level but the coarsest
_MAX_ENTRIES = 2000  # in one script: it blocks Redis for some milliseconds

_LEVELS = sorted(
    ((level, scheme.coarser(level) is None) for scheme in (ROWS, LOGGED, SCALARS) for level in scheme.levels),
    key=lambda each: (each[1], 0 if each[1] else each[0].width),
)
"""In the order in which they are trimmed, and whether each is a coarsest one; of those, rows before scalars."""

_log = logging.getLogger(__name__)


async def enforce_size_limit(repository: RunRepository, runs: Sequence[RunRecord], limits: Limits) -> list[str]:
    """Trim those of `runs` that exceed their limit. Returns their ids."""
    large = [(run, limit) for run in runs if run.redis_bytes > (limit := int(limits.mib(run) * _MIB))]
    found = [run.run_id for run, limit in large if await trim(repository, run, limit)]
    if found:
        _log.info("trimmed %d runs that exceeded their size limit: %s", len(found), ", ".join(found[:10]))
    return found


async def trim(repository: RunRepository, run: RunRecord, limit: int) -> int:
    """Drop the oldest of the finest history until `run` takes 7/8 of `limit` bytes. Returns the number of entries.

    Entries that no coarser level contains yet and each level's newest entry remain, so a run may exceed a low limit.
    """
    keys = RunKeys(run.run_id)
    available = max(0, int(limit * _TARGET) - (run.redis_bytes - run.history_bytes))
    levels = [text for level, top in _LEVELS for text in (level.name, int(top))]
    streams = [keys.history(level.name) for level, _ in _LEVELS]
    total = 0
    while dropped := await repository.redis.script(
        "trim", [keys.run, *streams], available, int(available * _RETAINED), _MAX_ENTRIES, *levels
    ):
        total += dropped
    return total
