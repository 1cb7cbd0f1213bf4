"""Which runs have new events: noted where they are stored, looked at where webhooks are sent."""

from __future__ import annotations

__all__ = ["DirtyRuns"]

_MAX = 10_000


class DirtyRuns:
    """Run ids, in this process' memory. A hint and no more: what is lost here is found by a look at all runs."""

    def __init__(self) -> None:
        self._runs: set[str] | None = None

    def listen(self) -> None:
        """From now on somebody takes what is noted."""
        self._runs = set()

    def note(self, run_id: str) -> None:
        """A run has new events. Costs nothing while nobody listens."""
        if self._runs is not None and len(self._runs) < _MAX:
            self._runs.add(run_id)

    def take(self) -> list[str]:
        """All that was noted since the last time."""
        taken, self._runs = self._runs or set(), set()
        return sorted(taken)
