"""The flight recorder: chooses which steps' per-parameter rows are sent."""

from __future__ import annotations

from collections import deque

STEPS_BEFORE = 32
STEPS_AFTER = 31  # with the step itself, 64 steps around a spike or a non-finite gradient


class FlightRecorder:
    """Every `every` steps, and all steps around an alarm. No step's rows are returned twice."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._before: deque[tuple[int, bytes]] = deque(maxlen=STEPS_BEFORE)  # steps that were not returned
        self._remaining = 0

    def admit(self, step: int, rows: bytes, alarm: bool) -> list[tuple[int, bytes]]:
        """Add the next step. Returns the rows to send, in step order: often none, at an alarm also earlier ones."""
        if alarm:
            self._remaining = STEPS_AFTER
            earlier = [item for item in self._before if step - STEPS_BEFORE <= item[0] < step]
            self._before.clear()
            return [*earlier, (step, rows)]
        if self._remaining > 0:
            self._remaining -= 1
            return [(step, rows)]
        if self.due(step):
            return [(step, rows)]
        self._before.append((step, rows))
        return []

    def due(self, step: int) -> bool:
        """Whether rows are sent without an alarm. The first step's are, so that no table of parameters starts empty."""
        return step == 1 or step % self._every == 0
