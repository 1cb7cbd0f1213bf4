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

__all__ = ["Turns"]

PATIENCE_S = 20.0
"""Longer than that nobody waits: agents ask again after about as long."""


class Turns:
    """at_once: turns that are taken at a time. within_s: a store that answered nobody for so long is taken for away.

    clock: monotonic seconds.
    """

    def __init__(self, at_once: int, within_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._within_s = within_s
        self._clock = clock
        self._answered = clock()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The block is a round trip. Raises TimeoutError where no turn comes, and as the block does."""
        if self._free.locked():
            await self._wait()
        else:
            await self._free.acquire()
        try:
            yield
            self._answered = self._clock()
        finally:
            self._free.release()

    async def _wait(self) -> None:
        began = self._clock()
        while True:
            try:
                async with asyncio.timeout(self._within_s):
                    await self._free.acquire()
            except TimeoutError:
                if self._is_away(began) or self._clock() - began > PATIENCE_S:
                    raise
            else:
                # Turns come free by failures, too: then another would fail as well, only later.
                if self._is_away(began):
                    self._free.release()
                    raise TimeoutError
                return

    def _is_away(self, since: float) -> bool:
        now = self._clock()
        return now - max(self._answered, since) > self._within_s * 0.9
