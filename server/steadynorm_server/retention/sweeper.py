"""Periodic maintenance of all runs: expiry, size limits, `stalled` events, the index. Several servers may sweep."""

from __future__ import annotations

import asyncio

from steadynorm_server.retention.policy import Limits, delete_expired
from steadynorm_server.retention.trimming import enforce_size_limit
from steadynorm_server.runs.repository import RunRepository

_MAX_INTERVAL_S = 10.0


async def sweep_repeatedly(repository: RunRepository, limits: Limits) -> None:
    """Rebuild the index once, then sweep until cancelled."""
    await repository.rebuild_index()
    while True:
        await sweep(repository, limits)
        await asyncio.sleep(min(_MAX_INTERVAL_S, repository.stalled_after_s / 2))


async def sweep(repository: RunRepository, limits: Limits) -> None:
    """Look at all runs once. What frees memory comes first: it works in a Redis that is full."""
    runs = await repository.list()
    await delete_expired(repository, runs, limits)
    await enforce_size_limit(repository, runs, limits)
    await repository.mark_stalled(runs)
    await repository.prune_index()
