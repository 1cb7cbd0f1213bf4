"""Word of changed settings: one subscription per process wakes all of its long-polls, which read nothing until then.

A message only says that it is worth reading again. What is published while the subscription is broken is lost, so all
who wait are woken whenever it is made anew; and one that says nothing is asked whether it still lives, because a
connection whose other end is gone without a word would be silent for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager

from redis.exceptions import TimeoutError as StoreTimeout

from steadynorm_server.background import background
from steadynorm_server.redis.client import Connection
from steadynorm_server.redis.keys import CHANGES

__all__ = ["ANSWER_S", "QUIET_S", "ChangeNotifier"]

QUIET_S = 5.0
"""A subscription that said nothing for so long is asked whether it lives."""
ANSWER_S = 2.0
"""It has so long to answer, and as long to be made."""
_AT_ONCE = 100
_PAUSE_S = 0.05


class ChangeNotifier:
    """Wakes whoever watches a run.

    waits: told +1 and -1 as watchers come and go. quiet_s, answer_s: how soon a subscription that hangs is noticed.
    """

    def __init__(
        self,
        redis: Connection,
        waits: Callable[[int], object] = lambda _: None,
        quiet_s: float = QUIET_S,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._redis = redis
        self._waits = waits
        self._quiet_s = quiet_s
        self._answer_s = answer_s
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
        self._waits(1)
        try:
            yield event
        finally:
            self._waits(-1)
            watchers.discard(event)
            if not watchers:
                self._watchers.pop(run_id, None)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Listen for as long as the block runs."""
        return background("changes", self._listen)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._redis.subscription() as subscription:
            async with asyncio.timeout(self._answer_s):
                await subscription.subscribe(CHANGES)
            heard, asked = loop.time(), True  # its first word is that it was made
            while True:
                left = heard + (self._answer_s if asked else self._quiet_s) - loop.time()
                if left <= 0 and asked:
                    raise StoreTimeout(f"the subscription did not answer within {self._answer_s:g} s")
                # Around what redis-py may do meanwhile by itself, which is to connect anew.
                async with asyncio.timeout(max(left, 0) + self._answer_s):
                    if left <= 0:
                        await subscription.ping()
                        heard, asked = loop.time(), True
                        continue
                    message = await subscription.get_message(timeout=left)
                match message:
                    case None:
                        continue
                    case {"type": "message", "data": bytes(run_id)}:
                        self._wake(run_id.decode())
                    case {"type": "subscribe"}:
                        # The first time and, since redis-py reconnects by itself, after every break.
                        await self._wake_all()
                heard, asked = loop.time(), False

    def _wake(self, run_id: str) -> None:
        for event in self._watchers.get(run_id, ()):
            event.set()

    async def _wake_all(self) -> None:
        """Some at a time: thousands that read at once would keep each other, and everybody else, waiting."""
        for at, run_id in enumerate(list(self._watchers), 1):
            self._wake(run_id)
            if at % _AT_ONCE == 0:
                await asyncio.sleep(_PAUSE_S)
