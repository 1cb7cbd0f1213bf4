"""Runs a background task for the server's lifetime and restarts it after errors."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from steadynorm_server.redis_errors import explain, is_from_redis

_RESTART_AFTER_S = 0.5
_CANCEL_AGAIN_S = 0.2
SAY_EVERY_S = 60.0
"""An error that goes on is logged as often."""

_log = logging.getLogger(__name__)


class Reports:
    """Which errors are due to be logged. clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}

    def due(self, text: str) -> bool:
        """Whether `text` was not logged within SAY_EVERY_S; if so, it now counts as logged."""
        now = self._clock()
        self._said = {known: at for known, at in self._said.items() if now - at < SAY_EVERY_S}
        if text in self._said:
            return False
        self._said[text] = now
        return True


@contextlib.asynccontextmanager
async def background(
    name: str, work: Callable[[], Awaitable[None]], clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[None]:
    """Runs `work` for as long as the block runs, and restarts it when it returns or raises."""
    reports = Reports(clock)

    async def supervise() -> None:
        while True:
            try:
                await work()
            except Exception as error:
                from_redis = is_from_redis(error)
                text = explain(error) if from_redis else f"failed: {error!r}."
                if reports.due(text):
                    _log.warning("%s: %s Trying again.", name, text, exc_info=None if from_redis else error)
            await asyncio.sleep(_RESTART_AFTER_S)

    task = asyncio.create_task(supervise(), name=name)
    try:
        yield
    finally:
        # More than once: `asyncio.wait_for` of Python 3.11, by which redis-py sends, can swallow a cancellation.
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_CANCEL_AGAIN_S)
