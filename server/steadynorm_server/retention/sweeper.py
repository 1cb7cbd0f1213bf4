"""Periodic maintenance of all runs: expiry, size limits, `stalled` events, the index. Several servers may sweep.

A pass goes through this process' rows of all runs, and reads those runs only for which there is something to do.
"""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
from redis.exceptions import ResponseError

from steadynorm_server.redis.client import Memory
from steadynorm_server.redis_errors import is_forbidden
from steadynorm_server.retention.capacity import Capacity
from steadynorm_server.retention.clock_watch import ClockWatch
from steadynorm_server.retention.policy import DAY_S, Limits, delete_expired
from steadynorm_server.retention.trimming import enforce_size_limit
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runs.rows import Column
from steadynorm_server.runs.view import LISTED, View

_MAX_INTERVAL_S = 10.0
_MIB = 2**20
CHECKED = 500
"""Runs whose rows each pass compares with Redis, in turn: 100,000 in half an hour."""
OnCapacity = Callable[[Capacity | None], object]


async def sweep_repeatedly(repository: RunRepository, limits: Limits, on_capacity: OnCapacity) -> None:
    """Rebuild the index once, then sweep until cancelled. on_capacity: told Redis' memory; None: it does not tell."""
    await repository.rebuild_index()
    watch = ClockWatch(repository.clock)
    while True:
        repository.redis.doubt_schema()
        await sweep(repository, limits, expires=watch.is_steady())
        servers = await _memory(repository)
        on_capacity(None if servers is None else _capacity(servers, repository.current_view(), limits))
        await asyncio.sleep(min(_MAX_INTERVAL_S, repository.stalled_after_s / 2))


async def sweep(repository: RunRepository, limits: Limits, *, expires: bool = True) -> None:
    """One pass. What frees memory comes first: it works in a Redis that is full. expires: remove what is too old."""
    await repository.catalogue.refresh(sizes=True)
    if repository.catalogue.place_was_lost():
        await repository.rebuild_index()
    lost = await repository.catalogue.check_some(CHECKED)
    run_ids = _concerned(repository.current_view(), limits, repository.stalled_after_s)
    runs = await repository.get_many(run_ids)
    if expires:
        await delete_expired(repository, runs, limits)
    await enforce_size_limit(repository, runs, limits)
    await repository.mark_stalled(runs)
    await repository.catalogue.read(run_ids)
    await repository.remove_lost(lost)
    await repository.read_heard()
    await repository.correct_live()


async def measure(repository: RunRepository, runs: Sequence[RunRecord], limits: Limits) -> Capacity | None:
    """Redis' memory beside what the runs may come to; None where its access list forbids to ask."""
    servers = await _memory(repository)
    return None if servers is None else Capacity.of(servers, runs, limits)


async def _memory(repository: RunRepository) -> Sequence[Memory] | None:
    try:
        return await repository.redis.memory()
    except ResponseError as error:
        if is_forbidden(error):
            return None
        raise


def _capacity(servers: Sequence[Memory], view: View, limits: Limits) -> Capacity:
    live = view.live & (view.visibility == LISTED)
    growth = np.floor(_limit_mib(view, limits) * _MIB) - view.rows.column("bytes")
    return Capacity.with_growth(servers, int(live.sum()), int(np.maximum(growth, 0)[live].sum()))


def _concerned(view: View, limits: Limits, stalled_after_s: float) -> list[str]:
    """Runs that may have expired, exceed their size or fell silent. Some may be due that a look at the run spares."""
    own_days = view.rows.column("keep_days")
    default = np.where(view.archived, np.nan, np.nan if limits.keep_days is None else limits.keep_days)
    kept_s = np.where(np.isnan(own_days), default, own_days) * DAY_S
    until = np.maximum(view.heard, view.rows.column("kept_from")) + kept_s  # NaN: for ever
    until = np.where(view.deleted, view.rows.column("removes_at"), until)
    large = view.rows.column("bytes") > np.floor(_limit_mib(view, limits) * _MIB)
    # As RunRecord.is_stalled, but for paused ones.
    listens = view.now - view.rows.column("polls_until") <= stalled_after_s
    stalled = view.silent & (~listens | (view.now - view.last_seen > 60 * stalled_after_s))
    return view.ids(np.flatnonzero((until < view.now) | large | (stalled & ~view.rows.column("marked"))))


def _limit_mib(view: View, limits: Limits) -> Column:
    own = view.rows.column("max_mib")
    return np.where(np.isnan(own), limits.max_mib, np.minimum(own, limits.ceiling_mib))
