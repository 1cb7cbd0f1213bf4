"""The agent's background thread: collects records from the recorder, buffers them, and sends them to the server.

The training thread never waits for it, except in `close()` and `flush()`, which have a deadline.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

import msgspec

from steadynorm.lifecycle import NOT_CLOSED
from steadynorm.mailbox import Mailbox
from steadynorm.recording.recorder import Recorder
from steadynorm.transport import abandoned
from steadynorm.transport.backoff import Backoff
from steadynorm.transport.batches import BatchBuilder
from steadynorm.transport.collector import Collector, count_error
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
from steadynorm_contract.telemetry import PACE_S, AgentCounters, RunEnd, RunFinish, RunRegistration

PERIOD_S = PACE_S
_HELD_BACK_BYTES = 512 * 1024  # at the most, where the server asks for batches more seldom
CLOSE_IDLE_S = 1.5  # close() gives up after this long without an acknowledgement,
MAX_CLOSE_S = 20.0  # and after this even with a server that keeps acknowledging
REGISTER_S_PER_PARAMETER = 0.0003  # 30 s for MAX_PARAMETERS: a table of 15 MB through a slow line
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
        self.prepare: Callable[[], None] = lambda: None  # called before the run is registered
        self.period_s = PERIOD_S  # between two looks at the recorder
        self._sent_at = 0.0  # monotonic seconds
        self._client = client
        self._poller = poller
        self._recorder = recorder
        self._mailbox = mailbox
        self._buffer = buffer
        self._restored_offset: int | None = None
        self._batches = BatchBuilder(buffer, mailbox)
        self._backoff = backoff or Backoff()
        self._next_attempt = 0.0  # monotonic seconds
        self._registered = False
        self._registered_as: str | None = None  # the instance that the server knows
        self._takeovers: deque[float] = deque(maxlen=3)  # monotonic seconds
        self._stopped = False
        self._in_flight = False  # whether the server may have the pending batch
        self._connection_log = ConnectionLog(server)
        self._progress = 0.0  # monotonic seconds of the last acknowledgement
        self._end: RunFinish | None = None
        self._deadline = 0.0  # monotonic seconds, once ending
        self._flush_asked = False
        self._dropped_before = 0  # the last flush()
        self._flushed = threading.Event()
        self._ended = threading.Event()
        self._wake = threading.Event()
        self.collector = Collector(recorder, mailbox, buffer, registration.detail_every, self._wake.set)
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
        self.collector.start()

    def wake(self) -> None:
        """Collect and send now instead of within a second."""
        self._wake.set()

    def add_error(self) -> None:
        """Count an internal exception in a step, and report it to the server."""
        self._buffer.add_error()
        self._wake.set()

    def restart_from(self, step: int, instance: str, step_offset: int) -> None:
        """The run continues from a checkpoint: register as its next incarnation, and number steps anew from there."""
        self._restored_offset = step_offset
        self.registration = msgspec.structs.replace(self.registration, step=step, instance=instance)

    def number_steps_from(self, offset: int) -> None:
        """The training loop's numbers of steps are so much larger than the agent's, see `StepNumbers`."""
        self.collector.number_steps_from(offset)

    def flush(self, timeout_s: float) -> bool:
        """Send everything recorded so far, the newest step included.

        False if it is not all stored in time, and if any record was dropped since the last call.
        """
        if self._thread is not None and self._end is None:
            self._flushed.clear()
            self._flush_asked = True
            self._wake.set()
            if not self._flushed.wait(timeout_s):
                return False
        counters = self.counters
        dropped, self._dropped_before = counters.dropped - self._dropped_before, counters.dropped
        return dropped == counters.buffered == 0 and self._recorder.backlog() < 0

    def abandon(self, end: RunEnd = RunEnd.FINISHED) -> None:
        """The training code dropped the optimizers without closing the agent: end in the background, within a second.

        Takes no lock: the garbage collector may call it in any thread, amid anything.
        """
        if self._thread is not None and self._end is None:
            abandoned.publishers.add(self)
            self._begin_to_end(RunFinish(end, reason=f"the optimizer was freed without agent.close(): {NOT_CLOSED}"))

    def _begin_to_end(self, finish: RunFinish) -> None:
        self._progress = monotonic()
        self._deadline = self._progress + MAX_CLOSE_S
        self._end = finish

    def close(self, finish: RunFinish) -> None:
        """Send what is left and the end of the run: within CLOSE_IDLE_S of the server's last response."""
        if self._thread is None or self._end is not None:
            return
        self._begin_to_end(finish)
        self.wait_until_ended()

    def wait_until_ended(self) -> None:
        """Of a publisher that is closing."""
        self._poller.close()
        self._wake.set()
        while (left_s := self._remaining_s()) > 0 and not self._ended.wait(min(left_s, CLOSE_IDLE_S)):
            pass
        if not self._ended.is_set() and self._thread is not None:
            self._client.abort()
            self._thread.join(0.3)

    # The thread.

    def _run(self) -> None:
        while self._end is None:
            woken = self._wake.wait(min(self.period_s, max(0.0, self._next_attempt - monotonic()) or PERIOD_S))
            self._wake.clear()
            self._cycle(sends=woken or monotonic() - self._sent_at >= self._pace_s())
        try:
            self._finish(self._end)
        finally:
            self.collector.close()
            self._ended.set()
            abandoned.publishers.discard(self)

    def _pace_s(self) -> float:
        """Seconds between two batches: as the server said, unless more waits than should be held back, or be lost."""
        return PERIOD_S if self._buffer.waiting_bytes > _HELD_BACK_BYTES else max(PERIOD_S, self._client.pace_s)

    def _cycle(self, *, sends: bool = True) -> None:
        flushing, self._flush_asked = self._flush_asked, False
        try:
            self._collect(final=flushing)
            if (sends or self.collector.alarmed) and not self._stopped and monotonic() >= self._next_attempt:
                self.collector.alarmed, self._sent_at = False, monotonic()
                self._exchange()
        except Exception as error:
            self._handle(error)
        if flushing:
            self._flushed.set()

    def _collect(self, *, final: bool = False) -> None:
        if self.collector.collect(final=final):
            self._connection_log.no_scalars()

    def _exchange(self) -> None:
        if not self._registered or self._registered_as != self.registration.instance:
            self._register()
        run_id = self.registration.run_id or ""
        while (body := self._batches.next_body()) is not None:
            timeout_s, self._in_flight = self._timeout_s(), True
            try:
                acknowledged, update = self._client.send(run_id, body, timeout_s)
            except BatchRejected as error:
                self._in_flight = False
                if self._handle_rejected_batch(error):
                    continue
                return
            self._mailbox.put(update)
            if not self._batches.acknowledge(acknowledged):
                raise ServerUnavailable(f"it acknowledged batch {acknowledged} only")
            self._in_flight = False
            self._progress = monotonic()
            self._backoff.reset()
            self._connection_log.recovered()

    def _register(self) -> None:
        self.prepare()
        registration = self.registration  # read once: restart_from() may replace it
        first = registration.instance != self._registered_as
        if first and self._restored_offset is not None:
            self.number_steps_from(self._restored_offset)
            self._restored_offset = None
        step = registration.step if first else max(0, self._mailbox.step - 1)
        step = max(0, step + self._mailbox.step_offset)
        registration = msgspec.structs.replace(
            registration, step=step, previous_instance=self._registered_as, **self._mailbox.in_force()
        )
        try:
            timeout_s = self._timeout_s()
            if self._end is None:  # else within what close() waits for
                timeout_s = max(timeout_s, len(registration.parameters) * REGISTER_S_PER_PARAMETER)
            state, update = self._client.register(registration, timeout_s)
        except RunNotFound as error:
            raise RequestRejected(f"there is no steadynorm server at this address ({error})") from error
        self.collector.takes_scalars = state.max_scalars > 0
        if not self.collector.takes_scalars and self._buffer.drop_logged():
            self._connection_log.no_scalars()
        self._mailbox.server_is_older = self._batches.without_later = state.max_knobs == 0
        if self._mailbox.server_is_older and self._mailbox.knobs:
            self._connection_log.no_knobs()
        self._batches.resume(state.incarnation, state.acknowledged, state.previous)
        self._mailbox.reset(update, registered_revision=registration.applied_revision)
        self._registered, self._registered_as = True, registration.instance
        self._progress = monotonic()
        self._poller.resume(registration.run_id or "")
        self._connection_log.recovered()

    def _schedule_retry(self, error: TransportError) -> None:
        """Decide when to try again, and log the reason once."""
        if isinstance(error, StaleIncarnation) and self._is_contested():
            error = RequestRejected(f"another process repeatedly takes over this run. {error}")
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
        self._connection_log.failed(error, final=self._stopped)

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

    def _handle(self, error: Exception) -> None:
        """Nothing may end this thread: what raises in here is counted, and handled in the next cycle."""
        try:
            if isinstance(error, TransportError):
                self._schedule_retry(error)
            else:
                self._handle_internal_error(error)
        except Exception as second:
            self._next_attempt = monotonic() + self._backoff.slow_s()
            self._buffer.add_error(sending=True)
            _log.debug("handling an error of the connection failed", exc_info=second)

    def _handle_internal_error(self, error: Exception) -> None:
        """A defect of the agent. Count it and continue, without the pending batch, which may be the cause.

        Unless the server may have that batch: then its next registration says whether it has.
        """
        self._next_attempt = monotonic() + self._backoff.slow_s()
        count_error(self._buffer, error)
        if self._in_flight:
            self._registered = False
        else:
            self._batches.discard()

    def _finish(self, finish: RunFinish) -> None:
        self._poller.close()
        try:
            for last in (False, True):  # an internal error must not keep the run's end from the server
                try:
                    self._collect(final=True)
                    if not self._stopped:
                        self._deliver(finish)
                except TransportError as error:
                    self._connection_log.ended(error, self.counters.buffered)
                except Exception as error:
                    self._handle(error)
                    if not last:
                        continue
                break
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
