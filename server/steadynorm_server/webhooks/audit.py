"""Lines of the audit stream on their way from this process to the queues of the webhooks with `audit = true`.

A change is made before its line is taken, so no line may fail one. It waits here, for a moment or until Redis answers
again, and from then on in the queue, which outlives run and process.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from fnmatch import fnmatchcase

from steadynorm_server import audit_log
from steadynorm_server.background import background
from steadynorm_server.webhooks.config import Webhook
from steadynorm_server.webhooks.queue import DeliveryQueue

_MOST = 10_000
"""Lines that wait in this process while Redis is away."""
_AT_ONCE = 100
_END_S = 2.0
_log = logging.getLogger(__name__)


class AuditLines:
    """Of one process. appended: an event for each webhook, set when its queue has new lines."""

    def __init__(
        self, queue: DeliveryQueue, webhooks: Sequence[Webhook], appended: Mapping[str, asyncio.Event]
    ) -> None:
        self._queue, self._webhooks, self._appended = queue, webhooks, appended
        self._waiting: deque[tuple[str, str]] = deque(maxlen=_MOST)
        self._came = asyncio.Event()
        self.dropped = 0
        """Lines for which there was no room, here or in a queue."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take lines during the block. At its end what waits is appended, if Redis answers."""
        if not self._webhooks:
            yield
            return
        audit_log.listeners.append(self._take)
        try:
            async with background("audit webhooks", self._append):
                yield
        finally:
            audit_log.listeners.remove(self._take)
            try:
                async with asyncio.timeout(_END_S):
                    await self._append_waiting()
            except Exception:
                _log.exception("%d lines of the audit stream did not reach the webhooks", len(self._waiting))

    def _take(self, run: str, line: str) -> None:
        self.dropped += len(self._waiting) == _MOST  # the oldest gives way
        self._waiting.append((run, line))
        self._came.set()

    async def _append(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            try:
                await self._append_waiting()
            except BaseException:
                self._came.set()
                raise

    async def _append_waiting(self) -> None:
        while self._waiting:
            some = [self._waiting[at] for at in range(min(_AT_ONCE, len(self._waiting)))]
            for webhook in self._webhooks:
                if lines := [line for run, line in some if any(fnmatchcase(run, each) for each in webhook.runs)]:
                    # Where one queue has them and Redis fails before the next, the first gets them twice: never not.
                    self.dropped += await self._queue.append_lines(webhook.name, lines)
                    self._appended[webhook.name].set()
            for taken in some:
                if self._waiting and self._waiting[0] is taken:  # else it gave way meanwhile
                    self._waiting.popleft()
