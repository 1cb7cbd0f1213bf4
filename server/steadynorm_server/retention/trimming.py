"""How much of the store one run may take: beyond it the oldest of its finest history goes first.

The levels of the history have budgets of their own, which add up to 58 MiB. Where the limit is lower, the single steps
of the past go before the buckets of 16, 256 or 4096 steps, so that what remains is the whole run, coarser, with all
its extremes. Each level but the coarsest keeps a sixteenth of the limit for the recent past while there is anything
else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.retention.policy import Limits
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.timeseries.rollups import ROWS, SCALARS

__all__ = ["enforce_size_limit", "trim"]

_MIB = 2**20
_AIM = 7 / 8  # of the limit: between two looks a run goes on
_KEPT = 1 / 16  # of the limit, by each level but the coarsest
_AT_ONCE = 2000  # entries in one script: some milliseconds, in which the store does nothing else

_LEVELS = sorted(
    ((level, ladder.above(level) is None) for ladder in (ROWS, SCALARS) for level in ladder.levels),
    key=lambda each: (each[1], 0 if each[1] else each[0].width),
)
"""In the order in which they give way, and whether each is a coarsest one: of these the rows go before the scalars."""

_log = logging.getLogger(__name__)


async def enforce_size_limit(repository: RunRepository, runs: Sequence[RunRecord], limits: Limits) -> list[str]:
    """Trim those of `runs` that take more than they may. Returns their ids."""
    large = [(run, limit) for run in runs if run.store_bytes > (limit := int(limits.mib(run) * _MIB))]
    found = [run.run_id for run, limit in large if await trim(repository, run, limit)]
    if found:
        _log.info("%d runs took more than they may and were trimmed: %s", len(found), ", ".join(found[:10]))
    return found


async def trim(repository: RunRepository, run: RunRecord, limit: int) -> int:
    """Drop the oldest of the finest history until `run` takes seven eighths of `limit` bytes. Returns how many entries.

    What is not in a coarser level yet stays, and so does a level's newest entry: a limit may be too low for a run.
    """
    keys = RunKeys(run.run_id)
    room = max(0, int(limit * _AIM) - (run.store_bytes - run.history_bytes))
    levels = [text for level, top in _LEVELS for text in (level.name, int(top))]
    streams = [keys.history(level.name) for level, _ in _LEVELS]
    total = 0
    while dropped := await repository.redis.script(
        "trim", [keys.run, *streams], room, int(room * _KEPT), _AT_ONCE, *levels
    ):
        total += dropped
    return total
