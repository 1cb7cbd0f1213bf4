"""The flight recorder: which steps' per-parameter rows are kept."""

from __future__ import annotations

from collections import deque

__all__ = ["STEPS_AFTER", "STEPS_BEFORE", "FlightRecorder"]

STEPS_BEFORE = 32
STEPS_AFTER = 31  # with the step itself, 64 steps around a spike or a non-finite gradient


class FlightRecorder:
    """Every `every` steps, and all the steps around an alarm. No step's rows are given out twice."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._before: deque[tuple[int, bytes]] = deque(maxlen=STEPS_BEFORE)  # steps that were not given out
        self._owed = 0

    def admit(self, step: int, rows: bytes, alarm: bool) -> list[tuple[int, bytes]]:
        """The next step. Returns the rows to keep now, in step order: often none, after an alarm also earlier ones."""
        if alarm:
            self._owed = STEPS_AFTER
            earlier = [item for item in self._before if step - STEPS_BEFORE <= item[0] < step]
            self._before.clear()
            return [*earlier, (step, rows)]
        if self._owed > 0:
            self._owed -= 1
            return [(step, rows)]
        if self.due(step):
            return [(step, rows)]
        self._before.append((step, rows))
        return []

    def due(self, step: int) -> bool:
        """Whether a calm step's rows are kept. The first step's are: a table of parameters should not start empty."""
        return step == 1 or step % self._every == 0
