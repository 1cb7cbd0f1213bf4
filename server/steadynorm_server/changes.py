"""Word of changed settings: one subscription per process wakes all of its long-polls.

A message only says that it is worth reading again, so a lost one costs time and nothing else: waiters also read after
every reconnection, and every REREAD_S anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager

from steadynorm_server.background import background
from steadynorm_server.connection import Connection
from steadynorm_server.keys import CHANGES

__all__ = ["REREAD_S", "Changes"]

REREAD_S = 10.0


class Changes:
    """Wakes whoever watches a run."""

    def __init__(self, redis: Connection) -> None:
        self._redis = redis
        self._watchers: dict[str, set[asyncio.Event]] = {}

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return sum(map(len, self._watchers.values()))

    @contextlib.contextmanager
    def watch(self, run_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the run's settings may have changed. Clear it before reading them."""
        event = asyncio.Event()
        watchers = self._watchers.setdefault(run_id, set())
        watchers.add(event)
        try:
            yield event
        finally:
            watchers.discard(event)
            if not watchers:
                self._watchers.pop(run_id, None)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Listen for as long as the block runs."""
        return background("changes", self._listen)

    async def _listen(self) -> None:
        async with self._redis.subscription() as subscription:
            await subscription.subscribe(CHANGES)
            while True:
                match await subscription.get_message(timeout=REREAD_S):
                    case {"type": "message", "data": bytes(run_id)}:
                        self._wake(run_id.decode())
                    case {"type": "subscribe"}:
                        # The first time and, since redis-py reconnects by itself, after every break: what was
                        # published meanwhile is lost.
                        self._wake_all()

    def _wake(self, run_id: str) -> None:
        for event in self._watchers.get(run_id, ()):
            event.set()

    def _wake_all(self) -> None:
        for run_id in self._watchers:
            self._wake(run_id)
