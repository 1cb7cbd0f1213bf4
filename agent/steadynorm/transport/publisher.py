"""The agent's background thread: collects what the recorder holds, keeps it, and sends it when the server takes it.

The training thread never waits for it, except in `close()` and `flush()`, which have a deadline.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from time import monotonic

import msgspec

from steadynorm.recording.clipping import ClippingDetector
from steadynorm.recording.flight_recorder import FlightRecorder
from steadynorm.recording.recorder import Recorder
from steadynorm.transport.backoff import Backoff
from steadynorm.transport.batches import BatchBuilder
from steadynorm.transport.http_client import (
    READ_TIMEOUT_S,
    BatchRefused,
    Outdated,
    Refused,
    RunLost,
    Transport,
    TransportError,
    Unreachable,
    VersionRefused,
)
from steadynorm.transport.mailbox import Mailbox
from steadynorm.transport.send_buffer import Buffer
from steadynorm.transport.settings_poller import Listener
from steadynorm.transport.status_log import ConnectionLog
from steadynorm_contract.telemetry import AgentCounters, RunEnd, RunFinish, RunRegistration

__all__ = ["Publisher"]

PERIOD_S = 1.0
PATIENCE_S = 1.5  # close() gives up when nothing was acknowledged for so long,
LONGEST_CLOSE_S = 20.0  # and after this even with a server that keeps acknowledging
CONTESTED_S = 60.0  # losing the run to another agent three times in this time is a contest, and this one yields

_log = logging.getLogger("steadynorm")


class Publisher:
    """registration: what the agent says it is; its step, settings and revision are filled in when it is sent.

    `start()` begins to talk to the server; before it nothing is known there.
    """

    def __init__(
        self,
        server: str,
        transport: Transport,
        listener: Listener,
        registration: RunRegistration,
        recorder: Recorder,
        mailbox: Mailbox,
        buffer: Buffer,
        backoff: Backoff | None = None,
    ) -> None:
        self.registration = registration
        self._transport = transport
        self._listener = listener
        self._recorder = recorder
        self._mailbox = mailbox
        self._buffer = buffer
        self._flight = FlightRecorder(registration.detail_every)
        self._ceiling = ClippingDetector()
        self._outbox = BatchBuilder(buffer, mailbox)
        self._backoff = backoff or Backoff()
        self._next_attempt = 0.0  # monotonic seconds
        self._registered = False
        self._registered_as: str | None = None  # the instance that the server knows
        self._outdated: deque[float] = deque(maxlen=3)  # monotonic seconds
        self._muted = False
        self._complaints = ConnectionLog(server)
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
        """The account of all records."""
        return self._buffer.counters

    @property
    def started(self) -> bool:
        """Whether the thread runs or ran."""
        return self._thread is not None

    def start(self) -> None:
        """Register, and send from now on."""
        self._mailbox.wake_publisher = self._wake.set
        self._thread = threading.Thread(target=self._run, name="steadynorm-publisher", daemon=True)
        self._thread.start()
        self._listener.start()

    def wake(self) -> None:
        """Collect and send now instead of within a second."""
        self._wake.set()

    def add_error(self) -> None:
        """Count an internal exception in a step, and tell the server."""
        self._buffer.add_error()
        self._wake.set()

    def restart_from(self, step: int, instance: str) -> None:
        """The run goes on from a checkpoint: register as its next incarnation."""
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
            self._begin_to_end(RunFinish(RunEnd.FINISHED))

    def _begin_to_end(self, finish: RunFinish) -> None:
        self._progress = monotonic()
        self._deadline = self._progress + LONGEST_CLOSE_S
        self._end = finish
        self._listener.close()
        self._wake.set()

    def close(self, finish: RunFinish) -> None:
        """Send what is left and the end of the run: within PATIENCE_S after the server's last sign of life."""
        if self._thread is None or self._end is not None:
            return
        self._begin_to_end(finish)
        while (left_s := self._remaining_s()) > 0 and not self._ended.wait(min(left_s, PATIENCE_S)):
            pass
        if not self._ended.is_set():
            self._transport.abort()
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
            if not self._muted and monotonic() >= self._next_attempt:
                self._exchange()
        except TransportError as error:
            self._put_off(error)
        except Exception:
            self._stumble()
        if flushing:
            self._flushed.set()

    def _collect(self, *, final: bool = False) -> None:
        records, lost = self._recorder.collect(final=final)
        self._buffer.add_lost(lost)
        for record in records:
            self._buffer.add_scalars(record.step, record.time, record.scalars, record.batch_id)
            self._ceiling.see(record.raw_norm)
            for step, rows in self._flight.admit(record.step, record.rows, record.alarm):
                self._buffer.add_rows(step, rows)

    def _exchange(self) -> None:
        if not self._registered or self._registered_as != self.registration.instance:
            self._register()
        run_id = self.registration.run_id or ""
        while (body := self._outbox.next_body()) is not None:
            try:
                acknowledged, offer = self._transport.send(run_id, body, self._timeout_s())
            except BatchRefused as error:
                if self._give_way(error):
                    continue
                return
            self._mailbox.offer(offer)
            if not self._outbox.acknowledge(acknowledged):
                raise Unreachable(f"it acknowledged batch {acknowledged} only")
            self._progress = monotonic()
            self._backoff.reset()
            self._complaints.recovered()

    def _register(self) -> None:
        registration = self.registration  # one object: restart_from() may replace it meanwhile
        first = registration.instance != self._registered_as
        revision, now = self._mailbox.applied
        step = registration.step if first else max(0, self._mailbox.step - 1)
        registration = msgspec.structs.replace(
            registration, step=step, settings=now, applied_revision=revision, previous_instance=self._registered_as
        )
        try:
            standing, offer = self._transport.register(registration, self._timeout_s())
        except RunLost as error:
            raise Refused(f"there is no steadynorm server at this address ({error})") from error
        self._outbox.resume(standing.incarnation, standing.acknowledged, standing.previous)
        self._mailbox.begin_anew(offer, told=revision)
        self._registered, self._registered_as = True, registration.instance
        self._progress = monotonic()
        self._listener.listen(registration.run_id or "")
        self._complaints.recovered()

    def _put_off(self, error: TransportError) -> None:
        """Decide when to try again, and say so once."""
        if isinstance(error, Outdated) and self._contested():
            error = Refused(f"another process keeps taking this run over, so this one stops sending. {error}")
            self._muted = True
        if isinstance(error, RunLost | Outdated):
            self._registered = False
            self._listener.pause()
            wait_s = self._backoff.next_s()
        elif isinstance(error, Refused):
            self._muted = self._muted or isinstance(error, VersionRefused)
            wait_s = self._backoff.slow_s()
        else:
            wait_s = self._backoff.next_s(error.retry_after_s if isinstance(error, Unreachable) else None)
        self._next_attempt = monotonic() + wait_s
        self._complaints.failed(error)

    def _contested(self) -> bool:
        self._outdated.append(monotonic())
        return len(self._outdated) == 3 and self._outdated[-1] - self._outdated[0] < CONTESTED_S

    def _give_way(self, error: BatchRefused) -> bool:
        """The server will never take the pending batch. Returns whether to send the next one at once."""
        self._progress = monotonic()
        if error.too_large and self._outbox.split():
            self._complaints.too_large(error, self._outbox.load_bytes)
            return True
        self._complaints.refused(error, self._outbox.discard())
        if self._end is not None:
            return True
        self._next_attempt = monotonic() + self._backoff.next_s()  # what waits may fare better in a while
        return False

    def _stumble(self) -> None:
        """A defect of ours. What was being sent may be the reason: give it up, count it, go on."""
        if not self._buffer.counters.sending_errors:
            _log.exception("the agent met an internal error while sending; training goes on")
        self._buffer.add_error(sending=True)
        self._outbox.discard()
        self._next_attempt = monotonic() + self._backoff.slow_s()

    def _finish(self, finish: RunFinish) -> None:
        try:
            self._collect(final=True)
            if not self._muted:
                self._deliver(finish)
        except TransportError as error:
            self._complaints.ended(error, self.counters.buffered)
        except Exception:
            self._stumble()
        finally:
            self._transport.close()

    def _deliver(self, finish: RunFinish) -> None:
        for last in (False, False, True):
            try:
                self._exchange()
                end = msgspec.structs.replace(finish, incarnation=self._outbox.incarnation)
                self._transport.finish(self.registration.run_id or "", end, self._timeout_s())
                return
            except (RunLost, Outdated):
                if last:
                    raise
                self._registered = False

    def _remaining_s(self) -> float:
        return min(self._deadline, self._progress + PATIENCE_S) - monotonic()

    def _timeout_s(self) -> float:
        """Of the next request: within what `close()` waits for."""
        if self._end is None:
            return READ_TIMEOUT_S
        remaining_s = self._remaining_s()
        if remaining_s <= 0:
            raise Unreachable("no time is left")
        return min(READ_TIMEOUT_S, remaining_s)
