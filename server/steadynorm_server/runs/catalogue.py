"""The rows of all runs, kept current in this process: what began, ended or was changed is read again, and what is live.

Redis is the only place where anything *is*: rows choose and count runs, and what is shown of them is read from Redis.
"""

import asyncio
import math
import time
from collections.abc import Iterable

import numpy as np
from redis.exceptions import RedisError

from steadynorm_server.redis.client import RedisClient
from steadynorm_server.redis.keys import INDEX, LIVE, RunKeys
from steadynorm_server.runs.index import Place, RunIndex
from steadynorm_server.runs.order import Order
from steadynorm_server.runs.rows import FIELDS, MOVING, Rows
from steadynorm_server.runs.view import View

_AT_ONCE = 250
"""Runs in one round trip: it holds up others for some ten milliseconds."""


class Catalogue:
    """Of one process. The first refresh reads all runs."""

    def __init__(self, redis: RedisClient, index: RunIndex) -> None:
        self._redis, self._index = redis, index
        self._rows = Rows()
        self._order = Order(self._rows)
        self._place: Place | None = None
        self._live: frozenset[str] = frozenset()  # as the index has them
        self._absent: set[str] = set()  # listed runs that Redis has no data of
        self._lock = asyncio.Lock()
        self._began = self._failed = -math.inf  # monotonic seconds
        self._failure: Exception | None = None
        self._checked = 0
        self._lost_place = False

    def view(self, now: float, stalled_after_s: float) -> View:
        """The rows as they are at `now` (Unix seconds). It holds until the caller waits for anything."""
        if self._order.layout != self._rows.layout:
            self._order = Order(self._rows)
        return View(self._rows, self._order, now, stalled_after_s)

    async def refresh(self, sizes: bool = False) -> None:
        """Make the rows those of a moment after this call. Callers that wait meanwhile share one refresh.

        sizes: also how large live runs are; else that is as old as the last refresh with it.
        """
        called = time.monotonic()
        async with self._lock:
            if self._began >= called:
                return
            if self._failure is not None and self._failed >= called:
                raise self._failure  # else all who wait for a Redis that hangs would wait one after another
            began = time.monotonic()
            try:
                await self._refresh(sizes)
            except (RedisError, OSError) as error:
                self._failure, self._failed = error, time.monotonic()
                raise
            self._began, self._failure = began, None

    async def read(self, run_ids: Iterable[str]) -> None:
        """Read these runs whatever is known of them."""
        async with self._lock:
            await self._read(list(run_ids))

    async def check_some(self, count: int) -> list[str]:
        """Read the next `count` runs in turn, in case a change was not recorded. Returns those that are gone."""
        ids = self._rows.ids
        first = self._checked if self._checked < len(ids) else 0
        self._checked = first + count
        some = ids[first : first + count]
        await self.read(some)
        gone = [run_id for run_id in some if run_id not in self._rows.places]
        return [*gone, *self._absent]

    def not_live(self, run_ids: Iterable[str]) -> list[str]:
        """Those that the index did not have as live at the last refresh."""
        return [run_id for run_id in run_ids if run_id not in self._live]

    def place_was_lost(self) -> bool:
        """Whether, since the last call, Redis came back with another state than it had: its index may be an old one."""
        lost, self._lost_place = self._lost_place, False
        return lost

    def misplaced(self, view: View, quiet_after_s: float) -> tuple[list[str], dict[str, float]]:
        """Runs that are wrongly among the live ones of the index, and those that are missing there, with their starts.

        quiet_after_s: those that were silent for longer are not to be there.
        """
        awake = np.flatnonzero(view.live & (view.now - view.heard <= quiet_after_s))
        right = dict(zip(view.ids(awake), self._rows.column("started")[awake].tolist(), strict=True))
        extra = [run_id for run_id in self._live if run_id not in right]
        return extra, {run_id: start for run_id, start in right.items() if run_id not in self._live}

    async def _refresh(self, sizes: bool) -> None:
        changed = None if self._place is None else await self._index.since(self._place)
        if changed is None:
            self._lost_place |= self._place is not None
            place = await self._index.place()  # first: what is touched from here on is read once more
            self._live = frozenset(await self._redis.index(LIVE))
            self._absent.clear()
            await self._match_index(again=True)
            self._place = place
            return
        known = self._rows.places
        unknown = (run_id for run_id in changed.live if run_id not in known and run_id not in self._absent)
        new = dict.fromkeys([*changed.touched, *unknown])
        moving = [run_id for run_id in changed.live if run_id in known and run_id not in new]
        await self._read(list(new))
        await (self._read(moving) if sizes else self._reread(moving))
        if len(self._rows) + len(self._absent) != changed.registered:
            await self._match_index()
        self._place, self._live = changed.place, frozenset(changed.live)

    async def _match_index(self, again: bool = False) -> None:
        """Let the rows be those of the listed runs. again: read all of them, whatever is known."""
        listed = dict.fromkeys(await self._redis.index(INDEX))
        for gone in [run_id for run_id in self._rows.ids if run_id not in listed]:
            self._rows.remove(gone)
        self._absent &= listed.keys()
        skipped = set() if again else {*self._rows.places, *self._absent}
        await self._read([each for each in listed if each not in skipped])
        self._absent = {run_id for run_id in listed if run_id not in self._rows.places}

    async def _read(self, run_ids: list[str]) -> None:
        for first in range(0, len(run_ids), _AT_ONCE):
            some = run_ids[first : first + _AT_ONCE]
            found = await self._redis.picked([RunKeys(run_id).run for run_id in some], FIELDS)
            for run_id, values in zip(some, found, strict=True):
                self._rows.put(run_id, values)
                if run_id in self._rows.places:
                    self._absent.discard(run_id)

    async def _reread(self, run_ids: list[str]) -> None:
        for first in range(0, len(run_ids), _AT_ONCE):
            some = run_ids[first : first + _AT_ONCE]
            found = await self._redis.picked([RunKeys(run_id).run for run_id in some], MOVING)
            for run_id, values in zip(some, found, strict=True):
                if not self._rows.move(run_id, values):
                    self._rows.remove(run_id)
