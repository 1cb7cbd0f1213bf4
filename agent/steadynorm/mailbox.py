"""Hand-over between the training thread and the background threads. No lock is held over I/O.

The background threads know this and the recorder, and neither the model nor the optimizer, which a thread must not
keep alive.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from steadynorm_contract.codec import encodable
from steadynorm_contract.knobs import Knob
from steadynorm_contract.scalars import ScalarDescription
from steadynorm_contract.settings import Settings, later_settings, without_later
from steadynorm_contract.telemetry import AgentNote, AppliedReport, Desired, RecoveryStatus, UserNote

MAX_NOTES = 100  # waiting; the oldest are dropped
MAX_USER_NOTES = 500  # waiting: as many as a server takes of a run; later ones are dropped
_log = logging.getLogger("steadynorm")
_M = TypeVar("_M", AppliedReport, AgentNote, UserNote)


@dataclass(frozen=True, slots=True)
class InvalidSettings:
    """A desired revision that this agent cannot read: its settings break a rule."""

    revision: int
    reason: str


class DesiredAtStart(Desired, frozen=True):
    """What the server desires as the process registers: actions that it counts were those of an earlier process."""


SettingsUpdate = Desired | InvalidSettings
"""Settings that the server desires, or why this agent cannot read them."""


class Mailbox:
    """To the training thread: desired settings. From it: which were applied, notes, and the current step."""

    def __init__(self, settings: Settings, *, discard_reports: bool = False) -> None:
        self.knobs: tuple[Knob, ...] = ()  # that the loop declared; replaced whole
        self.server_is_older = False  # than LATER_SETTINGS: they stay as they are
        self._detail: deque[tuple[int, int]] = deque()
        self.step_offset = 0  # added to the steps of what is taken to be sent, see `StepNumbers`
        self.step = 0  # the current step, or the last one
        self.applied = (0, settings)  # revision and settings in force, replaced together
        self.recovery: RecoveryStatus | None = None  # replaced whole
        self.described: dict[str, ScalarDescription] = {}  # of logged scalars; replaced whole
        self.wake_publisher: Callable[[], None] = lambda: None
        self.on_message: Callable[[AppliedReport | AgentNote | UserNote], None] | None = None  # must not wait
        self.sinks_dropped: Callable[[], int] = lambda: 0  # rows and events that sinks lost
        self.sends = True  # else what is told goes to sinks only
        self._discard_reports = discard_reports  # on a rank that does not talk to the server
        self._seen_revision = 0
        self._update: SettingsUpdate | None = None
        self._reports: deque[AppliedReport] = deque()
        self._notes: deque[AgentNote] = deque(maxlen=MAX_NOTES)
        self._user_notes: deque[UserNote] = deque()
        self._warned = False
        self._starts = True  # the next registration is the first since attach(), or since a checkpoint was loaded
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
            self._update = self._completed(update)
        self._changed.set()

    def reset(self, update: SettingsUpdate, *, registered_revision: int) -> None:
        """The response to a registration with `registered_revision`. It is new unless it has that very revision.

        A server whose Redis lost data counts on from there, so revisions that were seen and rejected may come again.
        """
        with self._lock:
            self._seen_revision, self._update = self.applied[0], None
            starts, self._starts = self._starts, False
            if starts and isinstance(update, Desired):
                update = DesiredAtStart(update.revision, update.settings)
            if update.revision == registered_revision:
                return
            self._seen_revision, self._update = update.revision, self._completed(update)
        self._changed.set()

    def _completed(self, update: SettingsUpdate) -> SettingsUpdate:
        """An older server's settings, with those in force of which it does not know."""
        if not self.server_is_older or isinstance(update, InvalidSettings):
            return update
        now = self.applied[1]
        settings = msgspec.structs.replace(
            update.settings, lr=now.lr, detail_every=now.detail_every, knobs=dict(now.knobs)
        )
        return type(update)(update.revision, settings)

    def in_force(self) -> dict[str, Any]:
        """Publisher: what a registration says of the settings, in the fields that it has for them."""
        revision, now = self.applied
        return {
            "settings": without_later(now),
            "later_settings": later_settings(now),
            "knobs": list(self.knobs),
            "applied_revision": revision,
        }

    def disconnect(self) -> None:
        """In a forked child, for those that still know it: threads that are not here may hold its locks."""
        self._lock, self._changed = threading.Lock(), threading.Event()
        self.wake_publisher, self.on_message, self._discard_reports = lambda: None, None, True

    def put_detail(self, round_: int, every: int) -> None:
        """Training thread: from this round on per-parameter rows are sent every so many steps."""
        if not self._discard_reports:
            self._detail.append((round_, every))

    def detail_every(self, round_: int, every: int) -> int:
        """Publisher: steps between two records of per-parameter rows in this round, `every` of them in the last one."""
        while self._detail and self._detail[0][0] <= round_:
            _, every = self._detail.popleft()
        return every

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
            self._seen_revision, self._starts = revision, True
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
            self._pass_on(report)
            self.wake_publisher()

    def note(self, note: AgentNote) -> None:
        """Training thread: an event for the run's log. Sent at once."""
        if not self._discard_reports:
            self._notes.append(msgspec.structs.replace(note, message=encodable(note.message)))
            self._pass_on(note)
            self.wake_publisher()

    def user_note(self, note: UserNote) -> None:
        """Any thread: a text of the training loop. Sent at once. Where too many wait it is dropped, told once."""
        if self._discard_reports:
            return
        self._pass_on(note)
        if not self.sends:
            return
        if len(self._user_notes) < MAX_USER_NOTES:
            self._user_notes.append(note)
            self.wake_publisher()
        elif not self._warned:
            self._warned = True
            _log.warning(
                "agent.note() is dropped, and so are further ones while %d wait to be sent: %.80s",
                *(MAX_USER_NOTES, note.text),
            )

    def describe(self, name: str, description: ScalarDescription) -> None:
        """Training thread: what a logged scalar is. Sent with the next batch, and to a server that is new to it."""
        self.described = {**self.described, name: description}

    def user_notes(self, limit: int) -> list[UserNote]:
        """Publisher: take up to `limit` texts."""
        return self._take(self._user_notes, limit)

    def notes(self) -> list[AgentNote]:
        """Publisher: take all notes."""
        return self._take(self._notes, MAX_NOTES)

    def reports(self, limit: int) -> list[AppliedReport]:
        """Publisher: take up to `limit` reports."""
        return self._take(self._reports, limit)

    def _take(self, waiting: deque[_M], limit: int) -> list[_M]:
        """The oldest. They are removed last, so that no exception loses one."""
        first = list(waiting)[:limit]
        taken = [self._numbered(each) for each in first]
        for each in first:
            if waiting and waiting[0] is each:  # else one that came meanwhile, to a full queue, has pushed it out
                waiting.popleft()
        return taken

    def _pass_on(self, message: _M) -> None:
        if self.on_message is not None:
            self.on_message(self._numbered(message))

    def _numbered(self, message: _M) -> _M:
        """The message with the step's number as it is recorded."""
        if not self.step_offset:
            return message
        return msgspec.structs.replace(message, step=max(0, message.step + self.step_offset))
