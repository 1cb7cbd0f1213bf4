"""Trackio: a run of ours, or the one that the loop has begun."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from steadynorm.sinks.base import PREFIX, Row, RunInfo, SinkEvent, Tool, own_facts

_GRAVE = ("nonfinite", "unrecoverable", "rank_failed")


class Trackio(Tool):
    """Joins the run that the loop has at its first step, and leaves it open; else begins one, and finishes it.

    Args:
        project: Of a run that is begun here.
        options: Further arguments of `trackio.init()` for it, such as `space_id="team/space"`.
    """

    package = "trackio"
    extra = "trackio"

    def __init__(self, project: str = "steadynorm", **options: Any) -> None:
        self._project, self._options = project, options
        self._run: Any = None
        self._is_ours = False

    def find_active(self) -> None:
        """The loop's run, which Trackio knows by the thread."""
        current = getattr(sys.modules.get("trackio.context_vars"), "current_run", None)
        self._run = None if current is None else current.get()

    def open(self, run: RunInfo) -> None:
        """Begin a run. The loop's gets a link: its configuration went out with its first row."""
        if self._run is not None:
            if run.url:
                self.event(SinkEvent("run", 0, 0.0, f"recorded as {run.run_id}", run.url))
            return
        import trackio

        options = {"name": run.run_id, "resume": "allow", "embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        config = {**run.config, "steadynorm": own_facts(run)}
        self._run = trackio.init(self._project, config=config, **{**options, **self._options})
        self._is_ours = True

    def write_rows(self, rows: Sequence[Row]) -> None:
        """A row each, under its step."""
        for row in rows:
            self._run.log({PREFIX + name: value for name, value in row.scalars.items()}, step=row.step)

    def event(self, event: SinkEvent) -> None:
        """An alert of the run."""
        from trackio import AlertLevel

        level = AlertLevel.WARN if event.kind == "spike" else AlertLevel.INFO
        level = AlertLevel.ERROR if event.kind in _GRAVE else level
        text = f"{event.message}{f' {event.url}' if event.url else ''}"
        self._run.alert(f"steadynorm: {event.kind}", text, level=level, step=event.step)

    def close(self, state: str) -> None:
        """Finish a run of ours."""
        if self._is_ours:
            self._run.finish()
