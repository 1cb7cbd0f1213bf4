"""Admission control: limits concurrent Redis calls; time spent queueing does not count against the Redis time-out.

A round trip has a deadline, so that a Redis that hangs becomes a quick 503. If the deadline included the queue, a burst
would fail requests whose work is done all the same, and their retries would keep the server overloaded. So a request
queues for as long as Redis answers others.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

LONGEST_QUEUE_S = 20.0
"""Agents time out and retry after about as long."""


class ConcurrencyLimiter:
    """limit: concurrent calls. timeout_s: a Redis that answered no call for so long is considered away.

    clock: monotonic seconds.
    """

    def __init__(self, limit: int, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._semaphore = asyncio.Semaphore(limit)
        self._timeout_s = timeout_s
        self._clock = clock
        self._last_answer = clock()

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[float]:
        """Runs the block as one call; yields the seconds that it may take. Raises TimeoutError while Redis is away."""
        if self._semaphore.locked():
            remaining_s = await self._wait()
        else:
            await self._semaphore.acquire()
            remaining_s = self._timeout_s
        try:
            yield remaining_s
            self._last_answer = self._clock()
        finally:
            self._semaphore.release()

    async def _wait(self) -> float:
        """Queue. Returns what remains of the time-out since Redis last answered, or since now."""
        started = self._clock()
        while True:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._semaphore.acquire()
            except TimeoutError:
                if self._remaining_s(started) <= 0 or self._clock() - started > LONGEST_QUEUE_S:
                    raise
            else:
                # Failed calls release, too: then this one would fail as well, only later.
                if (remaining_s := self._remaining_s(started)) > 0.1 * self._timeout_s:
                    return remaining_s
                self._semaphore.release()
                raise TimeoutError

    def _remaining_s(self, since: float) -> float:
        return self._timeout_s - (self._clock() - max(self._last_answer, since))
