"""Which runs somebody looks at now: what the reads of their pages say, here and, by a message, in all other processes.

A read writes nothing. So a look is a message on the channel of changes. One that is lost costs nothing but pace: the
agent sends every few seconds until the next look.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError

LOOK_S = 15.0
"""A look lasts for so long: pages ask every second or two, and a browser tab in the background less often."""
_MOST = 10_000

Tell = Callable[[str], Awaitable[object]]


class Audience:
    """tell: tells all processes, this one too, that somebody looks at a run. clock: monotonic seconds."""

    def __init__(self, tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._until: dict[str, float] = {}

    async def look(self, run_id: str) -> None:
        """Somebody looks at a run. Others are told twice in each LOOK_S at the most."""
        if self._until.get(run_id, 0.0) - self._clock() > LOOK_S / 2:
            return
        self.note(run_id)
        with contextlib.suppress(RedisError, OSError):  # whoever looks is told by the read itself
            await self._tell(run_id)

    def note(self, run_id: str) -> None:
        """Somebody looks at it, perhaps in another process."""
        now = self._clock()
        if len(self._until) >= _MOST:
            self._until = {each: until for each, until in self._until.items() if until > now}
        self._until[run_id] = now + LOOK_S

    def looks_at(self, run_id: str) -> bool:
        """Whether somebody does."""
        return self._until.get(run_id, 0.0) > self._clock()
