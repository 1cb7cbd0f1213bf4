"""The numbers under which steps are recorded: the training loop's own, if it logs them.

The agent counts optimizer steps from 1; many loops count from 0, or go on from elsewhere. `agent.log(step=...)` gives a
step the loop's number, so that the charts agree with the loop's own log. Steps after it count on from there.
"""

from __future__ import annotations

import logging

_log = logging.getLogger("steadynorm")


class StepNumbers:
    """`offset`: the loop's number of a step minus the agent's; 0 until the loop logs one."""

    def __init__(self) -> None:
        self.offset = 0
        self._last: tuple[int, int] | None = None  # the agent's number of the newest step, and the recorded one
        self._warned = False

    def number(self, step: int, logged: int | None) -> int:
        """The recorded number of the agent's `step`, for which the loop logged `logged`. They only grow.

        Where the agent's own number went back, to a checkpoint's, the recorded one may too.
        """
        if self._last is not None and step <= self._last[0]:
            self._last = None
        if logged is not None and (self._last is None or logged > self._last[1]):
            self.offset = logged - step
        elif logged is not None and not self._warned:
            self._warned = True
            _log.warning(
                "agent.log(step=%d) is ignored: step must grow, and the step before it was recorded as %d. Pass the "
                "loop's number of the optimizer step.",
                logged,
                self._last[1] if self._last else -1,
            )
        number = max(0, step + self.offset)
        self._last = (step, number)
        return number
