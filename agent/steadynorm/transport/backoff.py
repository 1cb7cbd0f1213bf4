"""How long to wait before the next request to a server that failed."""

from __future__ import annotations

import random

_MAX_RETRY_AFTER_S = 300.0  # a longer Retry-After is cut to this


class Backoff:
    """Exponential backoff with jitter, so that many agents of one server do not reconnect at the same moment.

    Each wait is 50 to 100 % of first_s * 2**attempts, at most longest_s. A server's Retry-After is a lower bound.
    """

    def __init__(self, first_s: float = 0.5, longest_s: float = 30.0, rng: random.Random | None = None) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._rng = rng or random.Random()
        self._attempts = 0

    def next_s(self, retry_after_s: float | None = None) -> float:
        """Seconds to wait after another failure."""
        whole = min(self._longest_s, self._first_s * 2.0 ** min(self._attempts, 32))
        self._attempts += 1
        wait_s = whole * self._rng.uniform(0.5, 1.0)
        if retry_after_s is None:
            return wait_s
        asked_s = min(max(0.0, retry_after_s), _MAX_RETRY_AFTER_S)
        return max(wait_s, asked_s * self._rng.uniform(1.0, 1.1))

    def slow_s(self) -> float:
        """Seconds to wait where only a person can fix it: the longest wait at once."""
        return self._longest_s * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """After a success: the next failure starts from the first wait again."""
        self._attempts = 0
