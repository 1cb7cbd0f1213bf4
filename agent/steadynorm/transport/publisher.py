"""The agent's background thread: collects records from the recorder, buffers them, and sends them to the server.

The training thread never waits for it, except in `close()` and `flush()`, which have a deadline.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from time import monotonic

import msgspec

from steadynorm.mailbox import Mailbox
from steadynorm.recording.clipping import ClippingDetector
from steadynorm.recording.flight_recorder import FlightRecorder
from steadynorm.recording.recorder import Recorder
from steadynorm.transport.backoff import Backoff
from steadynorm.transport.batches import BatchBuilder
from steadynorm.transport.http_client import (
    READ_TIMEOUT_S,
    BatchRejected,
    HttpClient,
    RequestRejected,
    RunNotFound,
    ServerUnavailable,
    StaleIncarnation,
    TransportError,
    VersionRejected,
)
from steadynorm.transport.send_buffer import SendBuffer
from steadynorm.transport.settings_poller import SettingsPoller
from steadynorm.transport.status_log import ConnectionLog
from steadynorm_contract.telemetry import AgentCounters, RunEnd, RunFinish, RunRegistration

PERIOD_S = 1.0
CLOSE_IDLE_S = 1.5  # close() gives up after this long without an acknowledgement,
MAX_CLOSE_S = 20.0  # and after this even with a server that keeps acknowledging
TAKEOVER_WINDOW_S = 60.0  # an agent that loses the run to another three times within this stops sending

_log = logging.getLogger("steadynorm")


class Publisher:
    """Sends one run's telemetry. Nothing is sent before `start()`.

    registration: describes the run; its step, settings and revision are filled in when it is sent.
    """

    def __init__(
        self,
        server: str,
        client: HttpClient,
        poller: SettingsPoller,
        registration: RunRegistration,
        recorder: Recorder,
        mailbox: Mailbox,
        buffer: SendBuffer,
        backoff: Backoff | None = None,
    ) -> None:
        self.registration = registration
        self._client = client
        self._poller = poller
        self._recorder = recorder
        self._mailbox = mailbox
        self._buffer = buffer
        self._flight_recorder = FlightRecorder(registration.detail_every)
        self._clipping = ClippingDetector()
        self._batches = BatchBuilder(buffer, mailbox)
        self._backoff = backoff or Backoff()
        self._next_attempt = 0.0  # monotonic seconds
        self._registered = False
        self._registered_as: str | None = None  # the instance that the server knows
        self._takeovers: deque[float] = deque(maxlen=3)  # monotonic seconds
        self._stopped = False
        self._connection_log = ConnectionLog(server)
        self._progress = 0.0  # monotonic seconds of the last acknowledgement
        self._end: RunFinish | None = None
        self._deadline = 0.0  # monotonic seconds, once ending
        self._flush_asked = False
        self._flushed = threading.Event()
        self._ended = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    # Any thread.

    @property
    def counters(self) -> AgentCounters:
        """Counts of all records and errors."""
        return self._buffer.counters

    @property
    def started(self) -> bool:
        """Whether the thread runs or ran."""
        return self._thread is not None

    def start(self) -> None:
        """Register, and send from now on. Calling it again does nothing."""
        if self._thread is not None:
            return
        self._mailbox.wake_publisher = self._wake.set
        self._thread = threading.Thread(target=self._run, name="steadynorm-publisher", daemon=True)
        self._thread.start()
        self._poller.start()

    def wake(self) -> None:
        """Collect and send now instead of within a second."""
        self._wake.set()

    def add_error(self) -> None:
        """Count an internal exception in a step, and report it to the server."""
        self._buffer.add_error()
        self._wake.set()

    def restart_from(self, step: int, instance: str) -> None:
        """The run continues from a checkpoint: register as its next incarnation."""
        self.registration = msgspec.structs.replace(self.registration, step=step, instance=instance)

    def flush(self, timeout_s: float) -> bool:
        """Send everything recorded so far, the newest step included. False if it is not all stored in time."""
        if self._thread is None or self._end is not None:
            return self._buffer.counters.buffered == 0
        self._flushed.clear()
        self._flush_asked = True
        self._wake.set()
        return self._flushed.wait(timeout_s) and self._buffer.counters.buffered == 0

    def abandon(self) -> None:
        """The training code dropped model, optimizer and agent without closing it: end in the background."""
        if self._thread is not None and self._end is None:
            self._start_closing(RunFinish(RunEnd.FINISHED))

    def _start_closing(self, finish: RunFinish) -> None:
        self._progress = monotonic()
        self._deadline = self._progress + MAX_CLOSE_S
        self._end = finish
        self._poller.close()
        self._wake.set()

    def close(self, finish: RunFinish) -> None:
        """Send what is left and the end of the run: within CLOSE_IDLE_S of the server's last response."""
        if self._thread is None or self._end is not None:
            return
        self._start_closing(finish)
        while (left_s := self._remaining_s()) > 0 and not self._ended.wait(min(left_s, CLOSE_IDLE_S)):
            pass
        if not self._ended.is_set():
            self._client.abort()
            self._thread.join(0.3)

    # The thread.

    def _run(self) -> None:
        while self._end is None:
            self._wake.wait(min(PERIOD_S, max(0.0, self._next_attempt - monotonic()) or PERIOD_S))
            self._wake.clear()
            self._cycle()
        self._finish(self._end)
        self._ended.set()

    def _cycle(self) -> None:
        flushing, self._flush_asked = self._flush_asked, False
        try:
            self._collect(final=flushing)
            if not self._stopped and monotonic() >= self._next_attempt:
                self._exchange()
        except TransportError as error:
            self._schedule_retry(error)
        except Exception:
            self._handle_internal_error()
        if flushing:
            self._flushed.set()

    def _collect(self, *, final: bool = False) -> None:
        records, lost = self._recorder.collect(final=final)
        self._buffer.add_lost(lost)
        for record in records:
            self._buffer.add_scalars(record.step, record.time, record.scalars, record.batch_id)
            self._clipping.observe(record.raw_norm)
            for step, rows in self._flight_recorder.admit(record.step, record.rows, record.alarm):
                self._buffer.add_rows(step, rows)

    def _exchange(self) -> None:
        if not self._registered or self._registered_as != self.registration.instance:
            self._register()
        run_id = self.registration.run_id or ""
        while (body := self._batches.next_body()) is not None:
            try:
                acknowledged, update = self._client.send(run_id, body, self._timeout_s())
            except BatchRejected as error:
                if self._handle_rejected_batch(error):
                    continue
                return
            self._mailbox.put(update)
            if not self._batches.acknowledge(acknowledged):
                raise ServerUnavailable(f"it acknowledged batch {acknowledged} only")
            self._progress = monotonic()
            self._backoff.reset()
            self._connection_log.recovered()

    def _register(self) -> None:
        registration = self.registration  # read once: restart_from() may replace it meanwhile
        first = registration.instance != self._registered_as
        revision, now = self._mailbox.applied
        step = registration.step if first else max(0, self._mailbox.step - 1)
        registration = msgspec.structs.replace(
            registration, step=step, settings=now, applied_revision=revision, previous_instance=self._registered_as
        )
        try:
            state, update = self._client.register(registration, self._timeout_s())
        except RunNotFound as error:
            raise RequestRejected(f"there is no steadynorm server at this address ({error})") from error
        self._batches.resume(state.incarnation, state.acknowledged, state.previous)
        self._mailbox.reset(update, registered_revision=revision)
        self._registered, self._registered_as = True, registration.instance
        self._progress = monotonic()
        self._poller.resume(registration.run_id or "")
        self._connection_log.recovered()

    def _schedule_retry(self, error: TransportError) -> None:
        """Decide when to try again, and log the reason once."""
        if isinstance(error, StaleIncarnation) and self._is_contested():
            error = RequestRejected(f"another process repeatedly takes over this run: this one stops sending. {error}")
            self._stopped = True
        if isinstance(error, RunNotFound | StaleIncarnation):
            self._registered = False
            self._poller.pause()
            wait_s = self._backoff.next_s()
        elif isinstance(error, RequestRejected):
            self._stopped = self._stopped or isinstance(error, VersionRejected)
            wait_s = self._backoff.slow_s()
        else:
            wait_s = self._backoff.next_s(error.retry_after_s if isinstance(error, ServerUnavailable) else None)
        self._next_attempt = monotonic() + wait_s
        self._connection_log.failed(error)

    def _is_contested(self) -> bool:
        self._takeovers.append(monotonic())
        return len(self._takeovers) == 3 and self._takeovers[-1] - self._takeovers[0] < TAKEOVER_WINDOW_S

    def _handle_rejected_batch(self, error: BatchRejected) -> bool:
        """The server will never accept the pending batch. Returns whether to send the next one at once."""
        self._progress = monotonic()
        if error.too_large and self._batches.split():
            self._connection_log.too_large(error, self._batches.chunk_bytes)
            return True
        self._connection_log.rejected(error, self._batches.discard())
        if self._end is not None:
            return True
        self._next_attempt = monotonic() + self._backoff.next_s()  # later batches may be accepted after a while
        return False

    def _handle_internal_error(self) -> None:
        """A defect of the agent. The pending batch may be the cause: drop it, count the error, continue."""
        if not self._buffer.counters.sending_errors:
            _log.exception("the agent met an internal error while sending; training continues")
        self._buffer.add_error(sending=True)
        self._batches.discard()
        self._next_attempt = monotonic() + self._backoff.slow_s()

    def _finish(self, finish: RunFinish) -> None:
        try:
            self._collect(final=True)
            if not self._stopped:
                self._deliver(finish)
        except TransportError as error:
            self._connection_log.ended(error, self.counters.buffered)
        except Exception:
            self._handle_internal_error()
        finally:
            self._client.close()

    def _deliver(self, finish: RunFinish) -> None:
        for last in (False, False, True):
            try:
                self._exchange()
                end = msgspec.structs.replace(finish, incarnation=self._batches.incarnation)
                self._client.finish(self.registration.run_id or "", end, self._timeout_s())
                return
            except (RunNotFound, StaleIncarnation):
                if last:
                    raise
                self._registered = False

    def _remaining_s(self) -> float:
        return min(self._deadline, self._progress + CLOSE_IDLE_S) - monotonic()

    def _timeout_s(self) -> float:
        """Time-out of the next request, within what `close()` waits for."""
        if self._end is None:
            return READ_TIMEOUT_S
        remaining_s = self._remaining_s()
        if remaining_s <= 0:
            raise ServerUnavailable("the time to close is over")
        return min(READ_TIMEOUT_S, remaining_s)
