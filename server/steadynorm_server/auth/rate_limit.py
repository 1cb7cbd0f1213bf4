"""How many requests a second a token may make, in this process: who is faster is slowed, and refused only in a flood.

An agent sends one batch after another, so a wait of some milliseconds is all that it takes to hold it to its rate: it
is never refused, and nothing of its telemetry is lost. Only many at once on one run, or many thousands a second with
one token, are answered 429 with Retry-After, which agents take as "later".
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.errors import ProblemError

__all__ = ["LONGEST_WAIT_S", "RateLimiter"]

LONGEST_WAIT_S = 1.0
BURST_S = 2.0
"""So many seconds' worth of requests may come at once."""
_SWEEP_AT = 10_000  # keys; a key whose time has passed says nothing

Key = tuple[str, ...]


class RateLimiter:
    """per_run: requests a second of one agent token about one run. per_token: of one token in all. 0: any number.

    clock: monotonic seconds.
    """

    def __init__(self, per_run: float, per_token: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_run, self._per_token = per_run, per_token
        self._clock = clock
        self._due: dict[Key, float] = {}
        """When a sender at exactly its rate would be due again (the generic cell rate algorithm, ITU-T I.371)."""

    async def admit(self, sender: Principal, run_id: str | None) -> None:
        """Waits where the sender is too fast. Raises a 429 problem where it would be for longer than LONGEST_WAIT_S."""
        if (wait_s := self.reserve(sender, run_id)) > 0:
            await asyncio.sleep(wait_s)

    def reserve(self, sender: Principal, run_id: str | None) -> float:
        """Seconds to wait before this request is served. Raises a 429 problem, which takes no place."""
        now = self._clock()
        asked: list[tuple[Key, float]] = []
        if self._per_token:
            asked.append(((sender.name,), self._per_token))
        if self._per_run and run_id is not None and sender.roles == {Role.AGENT}:
            # People share tokens, and many of them may look at one run; an agent has its run to itself.
            asked.append(((sender.name, run_id), self._per_run))
        wait_s = 0.0
        for key, rate in asked:
            wait_s = max(wait_s, self._due.get(key, now) - now - BURST_S)
            if wait_s > LONGEST_WAIT_S:
                what = "with this token" if len(key) == 1 else f"about run {key[1][:100]!r}"
                raise ProblemError(
                    429,
                    f"more than {rate:g} requests a second were made {what}: wait, and send less often.",
                    headers={"Retry-After": str(math.ceil(wait_s))},
                )
        for key, rate in asked:
            self._due[key] = max(self._due.get(key, now), now) + 1 / rate
        if len(self._due) > _SWEEP_AT:
            self._due = {key: due for key, due in self._due.items() if due > now}
        return wait_s
