"""What a sink is, and what it is given."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

PREFIX = "steadynorm/"
"""Of all names in a tool, so that they never meet those of the training loop."""
MAX_EVENTS_SHOWN = 50
"""Newest events that a tool without a list of its own keeps."""
_AROUND = 200  # steps on each side, in a link to the charts


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The run, as it is when its first step begins.

    Attributes:
        run_id: Its identity at the server.
        name: As people read it.
        url: Of its page in the dashboard, or of the run at the server; None without a server.
        config: What `attach(config=...)` was given, as JSON takes it, without secrets.
        environment: What the process found by itself, if it was to.
        tags: As in `attach()`.
    """

    run_id: str
    name: str
    url: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def link(self, step: int) -> str | None:
        """Address of the run's charts around a step; None without a server."""
        if self.url is None:
            return None
        around = f"zoom={max(0, step - _AROUND)}-{step + _AROUND}"
        return f"{self.url}&{around}" if "/?run=" in self.url else self.url


@dataclass(frozen=True, slots=True)
class SinkEvent:
    """What happened: the beginning of an incident, a change of settings, a finding, a rollback, a note.

    Attributes:
        kind: `spike`, `nonfinite`, `settings`, `note`, or a kind of the agent's notes, such as `rollback`.
        step: The optimizer step.
        time: Unix seconds.
        message: One line for people. It may hold names and texts of others: escape it where it becomes markup.
        url: Of the charts around the step; None without a server.
    """

    kind: str
    step: int
    time: float
    message: str
    url: str | None = None


class Row(NamedTuple):
    """The scalars of one step; float32 as recorded, NaN and infinities included."""

    step: int
    time: float  # Unix seconds
    scalars: Mapping[str, float]


@runtime_checkable
class Sink(Protocol):
    """Anything with `write()`. All calls come from one thread, which is the sink's own; exceptions are counted.

    It may also have, each of them optional:

        open(run: RunInfo)        before the first row; called again after an exception, with growing pauses
        event(event: SinkEvent)   something happened
        close(state: str)         the run is over: "finished", "failed" or "stopped"
    """

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """The scalars of one step: the fixed ones by their names, and what the loop logged under its own."""


class Tool:
    """Base of the sinks for tools that exist: they take many rows at once.

    package: what is imported; extra: of steadynorm, which installs it.
    """

    package = ""
    extra = ""

    def find_active(self) -> None:
        """Training thread, at the first step: remember the run that the loop has begun in this tool. No import."""

    def open(self, run: RunInfo) -> None:
        """Begin a run in the tool, or join the loop's."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One row."""
        self.write_rows([Row(step, 0.0, scalars)])

    def write_rows(self, rows: Sequence[Row]) -> None:
        """Rows in the order of their steps."""
        raise NotImplementedError

    def event(self, event: SinkEvent) -> None:
        """Something happened."""

    def close(self, state: str) -> None:
        """End what `open()` began."""

    @classmethod
    def check(cls) -> None:
        """Raises ModuleNotFoundError where the tool is not installed."""
        if cls.package not in sys.modules and importlib.util.find_spec(cls.package) is None:
            raise ModuleNotFoundError(
                f"sinks: {cls.package} is not installed: pip install 'steadynorm[{cls.extra}]'", name=cls.package
            )


def own_facts(run: RunInfo) -> dict[str, Any]:
    """What says in a tool where the run came from."""
    return {"run_id": run.run_id, "url": run.url or "", "environment": dict(run.environment), "tags": dict(run.tags)}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values by dotted names, as text."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = str(value)
    return found
