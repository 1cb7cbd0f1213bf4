"""Moves records from the recorder to the buffer of what is to be sent.

The publisher's thread does so before it sends. Where detectors look at the records, a thread of the collector does so
too: they must not wait for a server that hangs.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from steadynorm.mailbox import Mailbox
from steadynorm.recording.flight_recorder import FlightRecorder
from steadynorm.recording.norm_checks import NormChecks
from steadynorm.recording.recorder import Recorder, StepRecord
from steadynorm.recording.scalars import LoggedRecord
from steadynorm.transport.send_buffer import SendBuffer

_log = logging.getLogger("steadynorm")


class Observer(Protocol):
    """What looks at the collected steps."""

    def observe(self, record: StepRecord) -> None:
        """One step, in their order."""

    def observe_late(self, logged: LoggedRecord) -> None:
        """Scalars of a step that was given before, or that is not recorded."""


class Collector:
    """Collects in whichever thread asks for it.

    wake: of the publisher, when a step is collected that is to be sent at once.
    """

    def __init__(
        self,
        recorder: Recorder,
        mailbox: Mailbox,
        buffer: SendBuffer,
        detail_every: int,
        wake: Callable[[], None],
    ) -> None:
        self.alarmed = False  # a step that waits to be sent spiked or was not finite
        self.takes_scalars = True  # the server stores what is logged under names of the loop's own
        self._recorder, self._mailbox, self._buffer = recorder, mailbox, buffer
        self._wake = wake
        self._flight_recorder = FlightRecorder(detail_every)
        self._norm_checks = NormChecks()
        self._report: weakref.WeakMethod[Callable[[str, str], None]] | None = None
        self._observer: Observer | None = None
        self._period_s = 0.0
        self._lock = threading.Lock()  # of one collection
        self._closing = threading.Event()

    def give(self, observer: Observer, period_s: float) -> None:
        """Give each collected step to `observer`, and collect that often. Call before `start()`."""
        self._observer, self._period_s = observer, period_s

    def report_to(self, report: Callable[[str, str], None]) -> None:
        """Tell a method what the steps show of the loop: a name and a sentence. Its object is not kept alive."""
        self._report = weakref.WeakMethod(report)

    def start(self) -> None:
        """Start the thread, where one is needed."""
        if self._observer is not None:
            threading.Thread(target=self._run, name="steadynorm-watch", daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()

    def number_steps_from(self, offset: int) -> None:
        """The training loop's numbers of steps are so much larger than the agent's, see `StepNumbers`."""
        with self._lock:
            self._mailbox.step_offset = self._recorder.step_offset = offset

    def collect(self, *, final: bool = False) -> bool:
        """Move what is complete; final: the newest step too. What an exception costs counts as dropped.

        Returns whether what was logged had to be dropped since the server does not take it.
        """
        with self._lock:
            return self._collect(final=final)

    def _collect(self, *, final: bool) -> bool:
        flight, produced, taken, due = self._flight_recorder, self._buffer.counters.produced, self._recorder.taken, 0
        try:
            records, lost = self._recorder.collect(final=final)
            self._mailbox.step_offset = self._recorder.step_offset
            logged = [each.logged for each in records if each.logged] + self._recorder.apart
            due, taken = len(records) + len(logged) + lost, self._recorder.taken
            self._buffer.add_lost(lost)
            for record in records:
                flight.every = self._mailbox.detail_every(record.round, flight.every)
                rows = flight.admit(record.own_step, record.rows, record.alarm, record.step)
                due += len(rows)
                self._buffer.add_scalars(record.step, record.time, record.scalars, record.batch_id)
                for step, data in rows:
                    self._buffer.add_rows(step, data)
                self.alarmed |= record.alarm
                for finding in self._norm_checks.observe(record.step, record.raw_norm):
                    if self._report is not None and (report := self._report()) is not None:
                        report(*finding)
                if self._observer is not None:
                    self._observer.observe(record)
            if self._observer is not None:
                for each in self._recorder.apart:
                    self._observer.observe_late(each)
            for each in logged:
                self._buffer.add_logged(each.step, each.time, each.values)
            return not self.takes_scalars and self._buffer.drop_logged() > 0
        finally:
            due += self._recorder.taken - taken
            self._buffer.add_lost(produced + due - self._buffer.counters.produced)

    def _run(self) -> None:
        while not self._closing.wait(self._period_s):
            try:
                alarmed = self.alarmed
                self.collect()
                if self.alarmed and not alarmed:
                    self._wake()
            except Exception as error:
                count_error(self._buffer, error)


def count_error(buffer: SendBuffer, error: Exception) -> None:
    """An exception between collecting and sending, the first of which is logged."""
    first = not buffer.counters.sending_errors
    buffer.add_error(sending=True)
    if first:
        _log.error("the agent met an internal error while sending; training continues", exc_info=error)
