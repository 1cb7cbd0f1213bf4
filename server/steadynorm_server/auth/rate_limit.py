"""Rate limits by token, in this process: a fast sender is delayed, and rejected only if the delay would be long.

An agent sends one batch after another, so a delay of some milliseconds holds it to its rate: it is never rejected, and
no telemetry is lost. Only a flood about one run, or with one token, gets 429 with Retry-After; agents then retry.
"""

import asyncio
import math
import time
from collections.abc import Callable

from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.errors import ProblemError

LONGEST_WAIT_S = 1.0
BURST_S = 2.0
"""Requests of so many seconds may come at once."""
_SWEEP_AT = 10_000  # keys; one whose time has passed can go

Key = tuple[str, ...]


class RateLimiter:
    """per_run: requests a second of one agent token about one run. per_token: of one token in all. 0: unlimited.

    clock: monotonic seconds.
    """

    def __init__(self, per_run: float, per_token: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_run, self._per_token = per_run, per_token
        self._clock = clock
        self._due: dict[Key, float] = {}
        """When a sender at exactly its rate would send next (generic cell rate algorithm, ITU-T I.371)."""

    async def acquire(self, sender: Principal, run_id: str | None) -> None:
        """Wait if the sender is too fast. Raises a 429 problem if the wait would exceed LONGEST_WAIT_S."""
        if (wait_s := self.reserve(sender, run_id)) > 0:
            await asyncio.sleep(wait_s)

    def reserve(self, sender: Principal, run_id: str | None) -> float:
        """Seconds to wait before this request is served. Raises a 429 problem, which does not count as a request."""
        now = self._clock()
        limits: list[tuple[Key, float]] = []
        if self._per_token:
            limits.append(((sender.name,), self._per_token))
        if self._per_run and run_id is not None and sender.roles == {Role.AGENT}:
            # Not for viewers: many people may look at one run with one token.
            limits.append(((sender.name, run_id), self._per_run))
        wait_s = 0.0
        for key, rate in limits:
            wait_s = max(wait_s, self._due.get(key, now) - now - BURST_S)
            if wait_s > LONGEST_WAIT_S:
                what = "with this token" if len(key) == 1 else f"about run {key[1][:100]!r}"
                raise ProblemError(
                    429,
                    f"more than {rate:g} requests a second {what}: wait for Retry-After seconds, and send less often.",
                    headers={"Retry-After": str(math.ceil(wait_s))},
                )
        for key, rate in limits:
            self._due[key] = max(self._due.get(key, now), now) + 1 / rate
        if len(self._due) > _SWEEP_AT:
            self._due = {key: due for key, due in self._due.items() if due > now}
        return wait_s
