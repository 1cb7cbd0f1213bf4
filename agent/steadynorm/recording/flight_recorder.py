"""The flight recorder: chooses which steps' per-parameter rows are sent."""

from __future__ import annotations

from collections import deque

STEPS_BEFORE = 32
STEPS_AFTER = 31  # with the step itself, 64 steps around a spike or a non-finite gradient


class FlightRecorder:
    """Every `every` steps, and all steps around an alarm. No step's rows are returned twice."""

    def __init__(self, every: int) -> None:
        self.every = every  # may be changed between two steps
        self._before: deque[tuple[int, int, bytes]] = deque(maxlen=STEPS_BEFORE)  # steps that were not returned
        self._remaining = 0

    def admit(self, step: int, rows: bytes, alarm: bool, number: int | None = None) -> list[tuple[int, bytes]]:
        """Add the next step. Returns the rows to send, in step order: often none, at an alarm also earlier ones.

        step: the agent's count, by which it chooses. number: under which the step is recorded; None: the same.
        """
        number = step if number is None else number
        if alarm:
            self._remaining = STEPS_AFTER
            earlier = [(as_, kept) for at, as_, kept in self._before if step - STEPS_BEFORE <= at < step]
            self._before.clear()
            return [*earlier, (number, rows)]
        if self._remaining > 0:
            self._remaining -= 1
            return [(number, rows)]
        if self.due(step):
            return [(number, rows)]
        self._before.append((step, number, rows))
        return []

    def due(self, step: int) -> bool:
        """Whether rows are sent without an alarm. The first step's are, so that no table of parameters starts empty."""
        return step == 1 or step % self.every == 0
