"""TensorBoard: an event file beside the loop's own."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from steadynorm.sinks.base import PREFIX, Row, RunInfo, SinkEvent, Tool, own_facts


class TensorBoard(Tool):
    """Writes to `folder`, by default `runs/RUN_ID`, which a restart of the run continues.

    Args:
        folder: Of the event file. Several writers may share one.
    """

    package = "tensorboard"
    extra = "tensorboard"

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = None if folder is None else os.fspath(folder)
        self._writer: Any = None
        self._run: RunInfo | None = None

    def open(self, run: RunInfo) -> None:
        """Begin an event file."""
        from torch.utils.tensorboard import SummaryWriter

        self._run = run
        self._writer = SummaryWriter(self._folder or os.path.join("runs", run.run_id))
        facts = json.dumps({"config": run.config, **own_facts(run)}, indent=2, ensure_ascii=False)
        self._text("run", f"run {run.name}{_linked(run.url)}", 0)
        self._text("config", facts, 0)

    def write_rows(self, rows: Sequence[Row]) -> None:
        """One scalar each."""
        for row in rows:
            for name, value in row.scalars.items():
                self._writer.add_scalar(PREFIX + name, value, row.step, row.time or None)
        self._writer.flush()

    def event(self, event: SinkEvent) -> None:
        """A text at its step."""
        self._text("events", f"{event.kind}: {event.message}{_linked(event.url)}", event.step)
        self._writer.flush()

    def close(self, state: str) -> None:
        """Close the file."""
        self._text("run", f"{state}{_linked(self._run.url if self._run else None)}", 0)
        self._writer.close()

    def _text(self, name: str, text: str, step: int) -> None:
        # As a block of code: TensorBoard draws Markdown, and a name may look like some.
        body = "\n".join(f"    {line}" for line in text.splitlines())
        self._writer.add_text(PREFIX + name, body, step)


def _linked(url: str | None) -> str:
    return "" if url is None else f"\n{url}"
