"""One Redis subscription per process wakes all long-polls when settings change; until then they read nothing.

A message only means that reading again is worthwhile. Messages are lost while the subscription is broken, so all
subscribers are woken whenever it is established; and a silent one is pinged, because a connection whose other end
vanished without a FIN would stay silent for ever.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager

from redis.exceptions import TimeoutError as RedisTimeout

from steadynorm_server.background import background
from steadynorm_server.redis.client import RedisClient
from steadynorm_server.redis.keys import CHANGES, LOOK

QUIET_S = 5.0
"""A subscription that is silent for so long is pinged."""
ANSWER_S = 2.0
"""Time to answer a ping, and to subscribe."""
_BATCH = 100
_PAUSE_S = 0.05


class ChangeNotifier:
    """Wakes those who wait for changes of a run.

    on_waiting: called with +1 and -1 as they come and go. quiet_s, answer_s: how soon a hanging connection is noticed.
    on_look: called with the id of a run that somebody looks at.
    """

    def __init__(
        self,
        redis: RedisClient,
        on_waiting: Callable[[int], object] = lambda _: None,
        quiet_s: float = QUIET_S,
        answer_s: float = ANSWER_S,
        on_look: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._redis = redis
        self._on_waiting, self._on_look = on_waiting, on_look
        self._quiet_s = quiet_s
        self._answer_s = answer_s
        self._subscribers: dict[str, set[asyncio.Event]] = {}

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return sum(map(len, self._subscribers.values()))

    @contextlib.contextmanager
    def subscribe(self, run_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the run's settings may have changed. Clear it before reading them."""
        event = asyncio.Event()
        subscribers = self._subscribers.setdefault(run_id, set())
        subscribers.add(event)
        self._on_waiting(1)
        try:
            yield event
        finally:
            self._on_waiting(-1)
            subscribers.discard(event)
            if not subscribers:
                self._subscribers.pop(run_id, None)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Listen for as long as the block runs."""
        return background("changes", self._listen)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._redis.subscription() as subscription:
            async with asyncio.timeout(self._answer_s):
                await subscription.subscribe(CHANGES)
            last_heard, pinged = loop.time(), True  # the first message confirms the subscription
            while True:
                left = last_heard + (self._answer_s if pinged else self._quiet_s) - loop.time()
                if left <= 0 and pinged:
                    raise RedisTimeout(f"the subscription did not answer within {self._answer_s:g} s")
                # Around what redis-py may do meanwhile by itself, which is to reconnect.
                async with asyncio.timeout(max(left, 0) + self._answer_s):
                    if left <= 0:
                        await subscription.ping()
                        last_heard, pinged = loop.time(), True
                        continue
                    message = await subscription.get_message(timeout=left)
                match message:
                    case None:
                        continue
                    case {"type": "message", "data": bytes(run_id)}:
                        if (name := run_id.decode()).startswith(LOOK):
                            self._on_look(name.removeprefix(LOOK))
                        else:
                            self._wake(name)
                    case {"type": "subscribe"}:
                        # The first time and, since redis-py reconnects by itself, after every break.
                        await self._wake_all()
                last_heard, pinged = loop.time(), False

    def _wake(self, run_id: str) -> None:
        for event in self._subscribers.get(run_id, ()):
            event.set()

    async def _wake_all(self) -> None:
        """In batches: thousands that read at once would delay each other and all other requests."""
        for at, run_id in enumerate(list(self._subscribers), 1):
            self._wake(run_id)
            if at % _BATCH == 0:
                await asyncio.sleep(_PAUSE_S)
