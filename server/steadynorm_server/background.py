"""Work that goes on beside the requests, for as long as the server runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from redis.exceptions import RedisError

__all__ = ["background"]

_AGAIN_S = 0.5

_log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def background(name: str, work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Runs `work` during the block, again and again: it outlives the store and errors of its own."""

    async def go_on() -> None:
        while True:
            try:
                await work()
            except (RedisError, OSError) as error:
                _log.warning("%s: the store does not answer (%s); trying again", name, type(error).__name__)
            except Exception:
                _log.exception("%s failed; trying again", name)
            await asyncio.sleep(_AGAIN_S)

    task = asyncio.create_task(go_on(), name=name)
    try:
        yield
    finally:
        # More than once, because a cancellation can get lost: it was seen to, when it came while redis-py connects.
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.2)
