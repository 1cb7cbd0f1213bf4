"""Runs a background task for the server's lifetime and restarts it after errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from redis.exceptions import RedisError

_RESTART_AFTER_S = 0.5

_log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def background(name: str, work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Runs `work` for as long as the block runs, and restarts it when it returns or raises."""

    async def supervise() -> None:
        while True:
            try:
                await work()
            except (RedisError, OSError) as error:
                _log.warning("%s: Redis does not answer (%s); trying again", name, type(error).__name__)
            except Exception:
                _log.exception("%s failed; trying again", name)
            await asyncio.sleep(_RESTART_AFTER_S)

    task = asyncio.create_task(supervise(), name=name)
    try:
        yield
    finally:
        # More than once: redis-py can swallow a cancellation that arrives while it connects.
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.2)
