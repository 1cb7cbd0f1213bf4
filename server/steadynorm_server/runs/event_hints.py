"""Ids of runs that have new events, passed from where events are stored to where webhooks are sent."""

_MAX_RUNS = 10_000


class DirtyRuns:
    """Run ids in this process's memory. Only a hint: a periodic look at runs finds what is lost here."""

    def __init__(self) -> None:
        self._runs: set[str] | None = None

    def enable(self) -> None:
        """Start to collect ids, for a consumer that drains them."""
        self._runs = set()

    def mark(self, run_id: str) -> None:
        """Record that a run has new events; without effect until enabled."""
        if self._runs is not None and len(self._runs) < _MAX_RUNS:
            self._runs.add(run_id)

    def drain(self) -> list[str]:
        """Remove and return all ids."""
        drained, self._runs = self._runs or set(), set()
        return sorted(drained)
