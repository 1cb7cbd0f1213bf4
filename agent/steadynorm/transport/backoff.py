"""How long to wait before asking a server again."""

from __future__ import annotations

import random

__all__ = ["Backoff"]

_LONGEST_OBEYED_S = 300.0  # a Retry-After beyond this is taken for a mistake


class Backoff:
    """Exponential, with jitter: many agents that lost one server must not all come back in the same moment.

    Each wait is between half of and the whole of first_s * 2**attempts, at most longest_s. A server's Retry-After is a
    lower bound on it.
    """

    def __init__(self, first_s: float = 0.5, longest_s: float = 30.0, rng: random.Random | None = None) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._rng = rng or random.Random()
        self._attempts = 0

    def next_s(self, retry_after_s: float | None = None) -> float:
        """Seconds to wait after one more failure."""
        whole = min(self._longest_s, self._first_s * 2.0 ** min(self._attempts, 32))
        self._attempts += 1
        wait_s = whole * self._rng.uniform(0.5, 1.0)
        if retry_after_s is None:
            return wait_s
        asked_s = min(max(0.0, retry_after_s), _LONGEST_OBEYED_S)
        return max(wait_s, asked_s * self._rng.uniform(1.0, 1.1))

    def slow_s(self) -> float:
        """Seconds to wait where only a person can mend it: the longest wait at once."""
        return self._longest_s * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It worked: the next failure starts from the first wait again."""
        self._attempts = 0
