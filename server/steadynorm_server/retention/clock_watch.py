"""Notices that the machine's clock was set, before a run's age is judged by it."""

import logging
import time
from collections.abc import Callable

JUMP_S = 60.0
"""A clock that NTP steers is never set so far at once."""
REST_S = 600.0
"""For live runs to be heard from under the new time, and for a clock that was set wrongly to be set right."""

_log = logging.getLogger(__name__)


class ClockWatch:
    """Compares the clock with one that is never set. clock: Unix seconds; monotonic: seconds that only grow."""

    def __init__(self, clock: Callable[[], float], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._monotonic = clock, monotonic
        self._offset = clock() - monotonic()
        self._rests_until = monotonic()

    def is_steady(self) -> bool:
        """Whether the clock was not set within REST_S. To be asked often: it sees a jump since the last time."""
        now = self._monotonic()
        offset = self._clock() - now
        jumped, self._offset = offset - self._offset, offset
        if abs(jumped) > JUMP_S:
            self._rests_until = now + REST_S
            _log.warning(
                "the clock was set by %+.0f s: no run is removed for its age within the next %.0f minutes. "
                "Let a time service steer this machine's clock.",
                jumped,
                REST_S / 60,
            )
        return now >= self._rests_until
