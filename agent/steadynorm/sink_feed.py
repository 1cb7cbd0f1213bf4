"""What the agent's sinks are given: records as they are collected, and what the training thread tells the server."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import monotonic

from steadynorm.recording.recorder import StepRecord
from steadynorm.recording.scalars import LoggedRecord
from steadynorm.sinks.base import Row, RunInfo, Sink, SinkEvent
from steadynorm.sinks.thread import CLOSE_S, SinkState, SinkThread
from steadynorm_contract.settings import Settings, by_name
from steadynorm_contract.signals import SCALARS
from steadynorm_contract.telemetry import (
    SCALAR_COLUMNS,
    AgentNote,
    AppliedReport,
    NoteKind,
    RevisionOutcome,
    UserNote,
    floats_from_bytes,
)
from steadynorm_contract.words import counted

_QUIET_STEPS = 64  # without an alarm, after which the next one is another incident
_NUMBERS = [(at, each.name) for at, each in enumerate(SCALARS) if not each.is_index and each.name != "loss_nonfinite"]
_AT = {name: SCALAR_COLUMNS.index(name) for name in SCALAR_COLUMNS}


class SinkFeed:
    """All sinks of an agent.

    names: of the run's parameters. report: told of a sink's trouble. settings: in force at the beginning.
    """

    def __init__(
        self, sinks: Sequence[Sink], names: Sequence[str], settings: Settings, report: Callable[[str, str], None]
    ) -> None:
        self.ending: str | None = None  # how the run ends, once it does
        self.run = RunInfo("", "")  # until the first step begins
        self.environment: Mapping[str, str] = {}  # complete once prepare() has returned
        self.prepare: Callable[[], None] = lambda: None  # called in the sinks' threads
        self.start_watch: Callable[[], None] = lambda: None  # starts what collects records, where nothing is sent
        self._threads = [SinkThread(sink, report) for sink in sinks]
        self._names, self._settings = names, settings
        self._alarm = -math.inf  # round of the newest one: a step's number goes back with a checkpoint

    @property
    def states(self) -> tuple[SinkState, ...]:
        """Of each sink."""
        return tuple(thread.state for thread in self._threads)

    @property
    def dropped(self) -> int:
        """Rows and events that any sink lost."""
        return sum(thread.dropped for thread in self._threads)

    def start(self) -> None:
        """Training thread: the first step."""
        for thread in self._threads:
            thread.start(replace(self.run, environment=self.environment), self.prepare)
        self.start_watch()

    def collected(self, records: Sequence[StepRecord], apart: Sequence[LoggedRecord], final: bool) -> None:
        """The thread that collects: these steps, and what was logged in steps that are not among them.

        final: nothing recorded is left.
        """
        rows, events = [], []
        for record in records:
            values = floats_from_bytes(record.scalars)
            rows.append(Row(record.step, record.time, _scalars(values, record.logged)))
            if record.alarm:
                if record.round - self._alarm > _QUIET_STEPS:
                    events.append(self._incident(record, values))
                self._alarm = record.round
        rows += [Row(each.step, each.time, each.values) for each in apart]
        self._put(rows, events)
        if final and self.ending is not None:
            self.end(self.ending)

    def told(self, message: AgentNote | UserNote | AppliedReport) -> None:
        """Training thread: what it tells the server."""
        if isinstance(message, UserNote):
            self._put([], [self._event("note", message.step, message.time, message.text)])
        elif isinstance(message, AppliedReport):
            self._put([], [self._change(message)])
        elif message.kind is not NoteKind.SELF_CHECK:
            self._put([], [self._event(message.kind.value, message.step, message.time, message.message)])

    def abandon(self, state: str = "finished") -> None:
        """The run is over; the threads end by themselves once all is collected."""
        self.ending = self.ending or state

    def end(self, state: str) -> None:
        """Nothing comes any more."""
        for thread in self._threads:
            thread.end(state)

    def join(self, state: str) -> None:
        """Wait for the threads, CLOSE_S at most."""
        deadline = monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - monotonic()))
        self.end(state)  # where nothing could be collected any more

    def _put(self, rows: Sequence[Row], events: Sequence[SinkEvent]) -> None:
        if rows or events:
            for thread in self._threads:
                thread.put(rows, events)

    def _event(self, kind: str, step: int, time: float, message: str) -> SinkEvent:
        return SinkEvent(kind, step, time, message, self.run.link(step))

    def _incident(self, record: StepRecord, values: Sequence[float]) -> SinkEvent:
        if count := int(values[_AT["nonfinite"]]):
            where = self._name(values[_AT["nonfinite_parameter"]])
            others = f", with {counted(count - 1, 'other parameter')}" if count > 1 else ""
            message = f"the gradient of {where} is NaN or infinite{others}"
            return self._event("nonfinite", record.step, record.time, message)
        where, ratio = self._name(values[_AT["spike_parameter"]]), values[_AT["spike_ratio_max"]]
        return self._event("spike", record.step, record.time, f"the gradient of {where} is ×{ratio:.4g} its baseline")

    def _name(self, index: float) -> str:
        known = math.isfinite(index) and 0 <= index < len(self._names)
        return self._names[int(index)] if known else "a parameter"

    def _change(self, report: AppliedReport) -> SinkEvent:
        if report.outcome is RevisionOutcome.REJECTED:
            return self._event("settings", report.step, report.time, f"r{report.revision} rejected: {report.reason}")
        before, after = by_name(self._settings), by_name(report.settings)
        self._settings = report.settings
        changed = [f"{name} {before.get(name)} → {value}" for name, value in after.items() if before.get(name) != value]
        message = f"r{report.revision} in force: {', '.join(changed) or 'no difference'}"
        return self._event("settings", report.step, report.time, message)


def _scalars(values: Sequence[float], logged: LoggedRecord | None) -> dict[str, float]:
    found = {name: values[at] for at, name in _NUMBERS}
    if math.isnan(found["loss"]) and not values[_AT["loss_nonfinite"]]:
        del found["loss"]  # none was logged
    if math.isnan(found["learning_rate"]):
        del found["learning_rate"]
    return found if logged is None else {**found, **logged.values}
