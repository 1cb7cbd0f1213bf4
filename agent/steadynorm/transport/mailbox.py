"""Where the training thread and the background threads leave things for each other. No lock is held over anything slow.

The background threads know this and the recorder, and neither the model nor the optimizer: a thread must not keep
those alive.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from steadynorm.transport.http_client import SettingsUpdate
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import AgentNote, AppliedReport

__all__ = ["Mailbox"]

MOST_NOTES = 100  # that wait; older ones give way


class Mailbox:
    """Towards the training thread: what the server wants. Away from it: what became of that, and how far it is."""

    def __init__(self, settings: Settings) -> None:
        self.step = 0  # of the round under way, or the last one
        self.applied = (0, settings)  # revision and settings in force, replaced together
        self.wake_publisher: Callable[[], None] = lambda: None
        self.mute = False  # nobody collects reports: on a rank that does not talk to the server
        self._seen_revision = 0
        self._offer: SettingsUpdate | None = None
        self._reports: deque[AppliedReport] = deque()
        self._notes: deque[AgentNote] = deque(maxlen=MOST_NOTES)
        self._lock = threading.Lock()
        self._changed = threading.Event()

    @property
    def seen_revision(self) -> int:
        """The newest revision that the server has told of since the registration or the checkpoint, applied or not."""
        return self._seen_revision

    def offer(self, offer: SettingsUpdate) -> None:
        """Any thread: the server wants this. Only news counts, so order and repeats do not matter."""
        with self._lock:
            if offer.revision <= self._seen_revision:
                return
            self._seen_revision = offer.revision
            self._offer = offer
        self._changed.set()

    def begin_anew(self, offer: SettingsUpdate, *, told: int) -> None:
        """The answer to a registration that told revision `told`. It is news unless it is that very revision.

        A store that lost its data counts on from there, and gives numbers again that were seen and rejected before.
        """
        with self._lock:
            self._seen_revision, self._offer = self.applied[0], None
            if offer.revision == told:
                return
            self._seen_revision, self._offer = offer.revision, offer
        self._changed.set()

    def take(self) -> SettingsUpdate | None:
        """Training thread: what is new, once."""
        if self._offer is None:  # the common case costs no lock
            return None
        with self._lock:
            offer, self._offer = self._offer, None
        return offer

    def resume(self, revision: int) -> None:
        """Start from a checkpoint's revision: newer ones are news, those that were seen before it was loaded too."""
        with self._lock:
            self._seen_revision = revision
            if self._offer is not None and self._offer.revision <= revision:
                self._offer = None

    def wait(self, timeout_s: float | None = None) -> None:
        """Training thread: sleep until something is offered, or `release()`, or for so long."""
        self._changed.wait(timeout_s)
        self._changed.clear()

    def release(self) -> None:
        """Any thread: let a waiting training thread go on."""
        self._changed.set()

    def report(self, report: AppliedReport) -> None:
        """Training thread: this became of a revision. Goes out at once."""
        if not self.mute:
            self._reports.append(report)
            self.wake_publisher()

    def note(self, note: AgentNote) -> None:
        """Training thread: this happened. Goes out at once."""
        if not self.mute:
            self._notes.append(note)
            self.wake_publisher()

    def notes(self) -> list[AgentNote]:
        """Publisher: take all notes."""
        return [self._notes.popleft() for _ in range(len(self._notes))]

    def reports(self, most: int) -> list[AppliedReport]:
        """Publisher: take up to `most` reports."""
        return [self._reports.popleft() for _ in range(min(most, len(self._reports)))]
