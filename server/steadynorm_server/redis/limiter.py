"""So many at a time: who is many waits for a turn, and is not counted against a store that works.

A round trip has a deadline, because a store that hangs must be a quick answer. Time in a queue is something else: under
a burst, deadlines that ran there would fail requests whose work is done all the same, each would come again, and a
server that is merely full would serve nobody. So a turn is waited for as long as the store answers others meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

__all__ = ["ConcurrencyLimiter"]

PATIENCE_S = 20.0
"""Longer than that nobody waits: agents ask again after about as long."""


class ConcurrencyLimiter:
    """at_once: turns that are taken at a time. within_s: a store that answered nobody for so long is taken for away.

    clock: monotonic seconds.
    """

    def __init__(self, at_once: int, within_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._within_s = within_s
        self._clock = clock
        self._answered = clock()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """The block is a round trip, which may take so many seconds. Raises TimeoutError where no turn comes."""
        if self._free.locked():
            left_s = await self._wait()
        else:
            await self._free.acquire()
            left_s = self._within_s
        try:
            yield left_s
            self._answered = self._clock()
        finally:
            self._free.release()

    async def _wait(self) -> float:
        """Until there is a turn. Returns what is left of `within_s` since the store last answered, or since now."""
        began = self._clock()
        while True:
            try:
                async with asyncio.timeout(self._within_s):
                    await self._free.acquire()
            except TimeoutError:
                if self._left_s(began) <= 0 or self._clock() - began > PATIENCE_S:
                    raise
            else:
                # Turns come free by failures, too: then another would fail as well, only later.
                if (left_s := self._left_s(began)) > 0.1 * self._within_s:
                    return left_s
                self._free.release()
                raise TimeoutError

    def _left_s(self, since: float) -> float:
        return self._within_s - (self._clock() - max(self._answered, since))
