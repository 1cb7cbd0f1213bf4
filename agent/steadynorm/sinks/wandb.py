"""Weights & Biases: a run of ours, or the one that the loop has begun."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

from steadynorm.sinks.base import MAX_EVENTS_SHOWN, PREFIX, Row, RunInfo, SinkEvent, Tool, own_facts

STEP = PREFIX + "step"
"""The x axis of all our charts there: W&B's own step counts the loop's rows."""


class Wandb(Tool):
    """Joins `wandb.run` where the loop has one at its first step, and leaves it open; else begins one, and finishes it.

    In the loop's run our newest numbers go out with the rows that the loop logs (`commit=False`): a row of our own
    would take a step of W&B's counter, and W&B then drops what the loop logs under that step.

    Args:
        project: Of a run that is begun here.
        options: Further arguments of `wandb.init()` for it, such as `entity="team"`.
    """

    package = "wandb"
    extra = "wandb"

    def __init__(self, project: str = "steadynorm", **options: Any) -> None:
        self._project, self._options = project, options
        self._run: Any = None
        self._is_ours = False
        self._newest = 0
        self._events: deque[str] = deque(maxlen=MAX_EVENTS_SHOWN)

    def find_active(self) -> None:
        """The loop's run."""
        self._run = getattr(sys.modules.get("wandb"), "run", None)

    def open(self, run: RunInfo) -> None:
        """Begin a run, or describe ours in the loop's."""
        facts = own_facts(run)
        if self._run is None:
            import wandb

            options = {"id": run.run_id, "name": run.name, "resume": "allow", "reinit": "create_new", **self._options}
            options.setdefault("notes", f"steadynorm: {run.url}" if run.url else None)
            config = {**run.config, "steadynorm": facts}
            self._run, self._is_ours = wandb.init(project=self._project, config=config, **options), True
        else:
            self._run.config.update({"steadynorm": {**facts, "config": run.config}}, allow_val_change=True)
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric(f"{PREFIX}*", step_metric=STEP)
        self._run.summary[f"{PREFIX}url"] = run.url or ""

    def write_rows(self, rows: Sequence[Row]) -> None:
        """A row each in a run of ours. In the loop's, values that come late do not take its row back to their step."""
        for row in rows:
            named = {PREFIX + name: value for name, value in row.scalars.items()}
            self._newest = row.step if self._is_ours else max(self._newest, row.step)
            self._run.log({**named, STEP: self._newest}, commit=self._is_ours)

    def event(self, event: SinkEvent) -> None:
        """The newest ones are in the run's summary."""
        self._events.append(f"step {event.step}: {event.kind}: {event.message}{f' {event.url}' if event.url else ''}")
        self._run.summary[f"{PREFIX}events"] = "\n".join(self._events)

    def close(self, state: str) -> None:
        """Finish a run of ours."""
        self._run.summary[f"{PREFIX}state"] = state
        if self._is_ours:
            self._run.finish(exit_code=int(state == "failed"))
