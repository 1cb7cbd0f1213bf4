"""Hand-over between the training thread and the background threads. No lock is held over I/O.

The background threads know this and the recorder, and neither the model nor the optimizer, which a thread must not
keep alive.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import AgentNote, AppliedReport, Desired

MAX_NOTES = 100  # waiting; the oldest are dropped


@dataclass(frozen=True, slots=True)
class InvalidSettings:
    """A desired revision that this agent cannot read: its settings break a rule."""

    revision: int
    reason: str


SettingsUpdate = Desired | InvalidSettings
"""Settings that the server desires, or why this agent cannot read them."""


class Mailbox:
    """To the training thread: desired settings. From it: which were applied, notes, and the current step."""

    def __init__(self, settings: Settings, *, discard_reports: bool = False) -> None:
        self.step = 0  # the current step, or the last one
        self.applied = (0, settings)  # revision and settings in force, replaced together
        self.wake_publisher: Callable[[], None] = lambda: None
        self._discard_reports = discard_reports  # on a rank that does not talk to the server
        self._seen_revision = 0
        self._update: SettingsUpdate | None = None
        self._reports: deque[AppliedReport] = deque()
        self._notes: deque[AgentNote] = deque(maxlen=MAX_NOTES)
        self._lock = threading.Lock()
        self._changed = threading.Event()

    @property
    def seen_revision(self) -> int:
        """The newest revision received since the registration or the checkpoint, applied or not."""
        return self._seen_revision

    def put(self, update: SettingsUpdate) -> None:
        """Any thread: the server desires this. Revisions that were seen are ignored, so order and repeats are fine."""
        with self._lock:
            if update.revision <= self._seen_revision:
                return
            self._seen_revision = update.revision
            self._update = update
        self._changed.set()

    def reset(self, update: SettingsUpdate, *, registered_revision: int) -> None:
        """The response to a registration with `registered_revision`. It is new unless it has that very revision.

        A server whose Redis lost data counts on from there, so revisions that were seen and rejected may come again.
        """
        with self._lock:
            self._seen_revision, self._update = self.applied[0], None
            if update.revision == registered_revision:
                return
            self._seen_revision, self._update = update.revision, update
        self._changed.set()

    def take(self) -> SettingsUpdate | None:
        """Training thread: the newest update, once."""
        if self._update is None:  # the common case costs no lock
            return None
        with self._lock:
            update, self._update = self._update, None
        return update

    def resume(self, revision: int) -> None:
        """Start from a checkpoint's revision: newer ones are new again, also those seen before it was loaded."""
        with self._lock:
            self._seen_revision = revision
            if self._update is not None and self._update.revision <= revision:
                self._update = None

    def wait(self, timeout_s: float | None = None) -> None:
        """Training thread: sleep until an update arrives, `release()` is called, or the time-out passes."""
        self._changed.wait(timeout_s)
        self._changed.clear()

    def release(self) -> None:
        """Any thread: wake a waiting training thread."""
        self._changed.set()

    def report(self, report: AppliedReport) -> None:
        """Training thread: a revision was applied or rejected. Sent at once."""
        if not self._discard_reports:
            self._reports.append(report)
            self.wake_publisher()

    def note(self, note: AgentNote) -> None:
        """Training thread: an event for the run's log. Sent at once."""
        if not self._discard_reports:
            self._notes.append(note)
            self.wake_publisher()

    def notes(self) -> list[AgentNote]:
        """Publisher: take all notes."""
        return [self._notes.popleft() for _ in range(len(self._notes))]

    def reports(self, limit: int) -> list[AppliedReport]:
        """Publisher: take up to `limit` reports."""
        return [self._reports.popleft() for _ in range(min(limit, len(self._reports)))]
