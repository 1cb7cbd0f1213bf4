"""Recovery in the training thread: snapshots at boundaries, and rollbacks right after a step.

A decision arrives before a step, on all ranks before the same one. That step still runs, with gradients of the weights
that are to be left; then everything is written back, so no such gradient reaches the restored state. With several
optimizers each of the round's steps is followed by it. The step count goes on.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch

from steadynorm.faults import ErrorState
from steadynorm.lifecycle import readable
from steadynorm.mailbox import Mailbox
from steadynorm.recovery.contents import Contents
from steadynorm.recovery.orders import Action, News, Order, RollbackEvent
from steadynorm.recovery.policy import Policy
from steadynorm.recovery.snapshots import Snapshots
from steadynorm.recovery.watch import Alarm, Watch
from steadynorm.recovery_options import Recovery
from steadynorm.step_boundary import StepBoundary
from steadynorm_contract.notes import MAX_NOTE_LENGTH
from steadynorm_contract.settings import RecoveryMode, Settings
from steadynorm_contract.telemetry import AgentNote, DetectorStatus, NoteKind, RecoveryStatus, UserNote
from steadynorm_contract.words import counted

MAX_BATCH_IDS = 1_000
MAX_NAMED = 5  # batches in an event's message
MOST_SKIPPED = 8  # steps in a row that are a GradScaler's own business

_log = logging.getLogger("steadynorm")


class RecoveryControl:
    """One agent's recovery. watch: on rank 0. all_ranks: decisions come by `receive()`, on all ranks at one boundary.

    resumable: whether somebody could resume a paused run. start_watch: starts what feeds the watch; may be repeated.
    """

    def __init__(
        self,
        recovery: Recovery,
        contents: Contents,
        boundary: StepBoundary,
        mailbox: Mailbox,
        errors: ErrorState,
        watch: Watch | None,
        *,
        all_ranks: bool = False,
        resumable: bool = True,
        start_watch: Callable[[], None] | None = None,
    ) -> None:
        self.callbacks: list[Callable[[RollbackEvent], object]] = []
        self.snapshots = Snapshots(contents, recovery.keep, recovery.confirm)
        self.callback_errors = 0
        self.skipped = 0  # steps in a row that a GradScaler left out
        self._told_at = 0  # how many they were at their last alarm
        self.broken_step = 0  # of this rank's snapshot whose weights are not finite: told with the next exchange
        recovery = replace(
            recovery, scheduler=None, scaler=None, extra={}
        )  # a closed agent holds nothing of a training
        self._recovery, self._contents, self._boundary = recovery, contents, boundary
        self._mailbox, self._errors, self._watch = mailbox, errors, watch
        self._policy = Policy(recovery)
        self._all_ranks, self._resumable = all_ranks, resumable
        self.proposed: Order | None = None  # of several ranks, which are asked with the next exchange
        self._order: Order | None = None  # to be carried out after the present round's steps
        self._restored = False  # whether an optimizer of this round was
        self._sent: Order | None = None  # by rank 0, and not received yet
        self._alarm: Alarm | None = None  # that no detector raised: weights that are not finite
        self._told_without = False  # that there is no snapshot to go back to
        self._start_watch = start_watch
        self._reported: tuple[list[int], int, list[DetectorStatus]] | None = None
        self._offset = 0  # of the numbers under which steps are recorded; on all ranks that of rank 0
        self._batch_ids: deque[tuple[int, str]] = deque(maxlen=MAX_BATCH_IDS)
        boundary.keeps_snapshots = True
        boundary.refuses, boundary.on_applied = self.refusal, self.settings_changed

    # Around a step.

    def before_step(self) -> None:
        """A round of steps begins, and its number is not counted yet."""
        boundary = self._boundary
        if self._is_captured():
            return
        if self._start_watch is not None:
            self._start_watch()
        if not self._all_ranks:
            self.receive(self.news())
        self._report()
        if self._mode is RecoveryMode.OFF or self._order is not None or self.proposed is not None:
            return
        if not boundary.step:
            return
        broken = self.snapshots.broken_step()
        if broken is not None:
            self.broken_step = broken
            self._alarm = Alarm(boundary.step, f"weights are not finite in the snapshot of step {self._shown(broken)}")
            if not self._all_ranks:  # ranks drop it together, or they would hold different ones
                self.snapshots.drop_after(broken - 1)
        if boundary.step % self._recovery.every_steps == 0:
            self.snapshots.take(boundary.step)

    def after_step(self) -> None:
        """An optimizer has stepped: restore, if that was decided before this round."""
        order = self._order
        if order is None or order.to_step is None or self._is_captured():
            return
        first, self._restored = not self._restored, True
        if first and (misfit := self.snapshots.misfit(order.to_step)):
            self.finish_round()
            raise RuntimeError(
                f"the snapshot of step {order.to_step} cannot be restored: {misfit}. Nothing was changed."
            )
        interrupt: KeyboardInterrupt | None = None
        try:
            left = self.snapshots.restore(order.to_step)
        except KeyboardInterrupt as raised:  # a run of which a half went back would be worse than to wait for it
            interrupt, left = raised, self.snapshots.restore(order.to_step)
        if first:
            self._rolled_back(order, order.to_step, left)
        if interrupt is not None:
            raise interrupt

    def step_skipped(self) -> None:
        """A GradScaler left the coming step out, on all ranks: its gradients were not finite.

        Weights that are not finite are an alarm at once, eight such steps in a row are one too, and what goes on is
        told anew every `every_steps`. Reading the weights waits for the device, as the scaler has done.
        """
        boundary, first = self._boundary, not self.skipped
        self.skipped += 1
        self._told_at = 0 if first else self._told_at
        if not self._all_ranks:
            self.receive(self.news())
        self._report()
        if self._mode is RecoveryMode.OFF or self._order is not None or self.proposed is not None or not boundary.step:
            return
        since = self.skipped - self._told_at
        if self._told_at and since < self._recovery.every_steps:
            return
        finite = self._contents.finite()
        if (broken := finite is not None and not finite) or self._told_at or since >= MOST_SKIPPED:
            self._told_at = self.skipped
            if broken and self._all_ranks:
                self.broken_step = boundary.step
            elif self._watch is not None:
                what = "weights are not finite, and " if broken else ""
                what += f"the GradScaler left out {counted(self.skipped, 'step')} in a row"
                self._alarm = Alarm(boundary.step, what)
        if not self._all_ranks:
            self.receive(self.news())

    def finish_round(self) -> None:
        """A round begins: that after which the run was restored is over. Call before anything that may fail."""
        if self._restored:
            self._order, self._restored = None, False

    def log_batch_id(self, batch_id: str) -> None:
        """The loop names the data of the newest step."""
        self._batch_ids.append((self._boundary.step, batch_id))

    def forget(self) -> None:
        """A checkpoint was loaded: snapshots are of another history."""
        self.snapshots.clear()
        self._cancel()
        self._boundary.hold(1.0, 0)
        if self._watch is not None:
            self._watch.forget(self._boundary.round)

    def let_go(self) -> None:
        """The agent is closed."""
        self.snapshots.release()
        self._contents.let_go()
        self.callbacks.clear()

    # What ranks agree on.

    def news(self) -> News:
        """Rank 0: what was evaluated, and what is to be done."""
        watch = self._watch
        if watch is None or self._mode is RecoveryMode.OFF:
            return News()
        if self.proposed is not None or self._order is not None:  # what is wrong until then is wrong already
            return News(offset=self._mailbox.step_offset)
        evaluated, alarm = watch.evaluated, watch.pending or self._alarm  # in this order
        known = {each: watch.numbers[each] for each in self.snapshots.unnumbered if each in watch.numbers}
        offset = self._mailbox.step_offset
        if alarm is None or self._sent is not None:
            return News(evaluated if alarm is None else 0, None, offset, known, watch.fault_until)
        self._sent = self._policy.decide(alarm, self._boundary.step, self.snapshots.good, self._mode)
        return News(0, self._sent, offset, known)

    def receive(self, news: News, *, broken: Mapping[int, int] = MappingProxyType({})) -> None:
        """All ranks at the same boundary. broken: by rank, the step of a snapshot that is not finite there."""
        self._offset = news.offset
        if news.numbers:
            self.snapshots.set_numbers(news.numbers)
        if broken:
            if self._watch is not None and self._alarm is None:
                self._alarm = Alarm(self._boundary.step, f"weights are not finite on rank {min(broken)}")
            self.snapshots.drop_after(min(broken.values()) - 1)  # others may have confirmed it meanwhile
        else:
            self.snapshots.confirm(news.evaluated, fault_until=news.fault_until)
        if news.order is None:
            return
        self.snapshots.drop_candidate()
        self._sent = None
        self._carry_out(news.order)

    @property
    def readiness(self) -> int:
        """The same on all ranks that hold the same snapshots; 0: this one cannot go back to what is proposed."""
        if self.proposed is not None and self.snapshots.misfit(self.proposed.to_step or 0):
            return 0
        return self.snapshots.fingerprint

    def agree(self) -> None:
        """All ranks can go back: they do, after the coming step."""
        self._order, self.proposed = self.proposed, None

    def drop_proposal(self) -> None:
        """No rank can go back any more."""
        if self.proposed is not None:
            what = f"cannot roll back to {self._shown(self.proposed.to_step or 0)}, which no rank holds any more: "
            self._tell(NoteKind.ROLLBACK_ADVISED, what + f"{self.proposed.reason}. Nothing was changed.", None)
        self.proposed = None

    def _propose(self, order: Order) -> None:
        if self._all_ranks:
            self.proposed = order
        else:
            self._order = order

    # Settings.

    def refusal(self, before: Settings, after: Settings) -> str:
        """Why a change cannot be carried out now; empty if it can."""
        if after.rollback_generation <= before.rollback_generation:
            return ""
        if self._order is not None or self.proposed is not None:
            return "a rollback is under way already, and is carried out within a few steps: ask again after it."
        good, now = self.snapshots.good, self._boundary.step
        if after.recovery is RecoveryMode.OFF:
            return "a rollback needs recovery=act or recovery=advise: got recovery=off, which keeps no snapshots."
        if not good:
            due = now - now % self._recovery.every_steps + self._recovery.every_steps + self._recovery.confirm
            first = self.snapshots.first_good_at or due
            return (
                f"a rollback needs a good snapshot: got none yet at step {self._shown(now)}. The first one will be "
                f"good at about step {self._shown(first)}, if no alarm is raised until then."
            )
        wanted = self._own(after.rollback_to)
        if wanted is not None and wanted not in good:
            kept = ", ".join(self._shown(each) for each in good)
            return f"rollback_to must be the step of a snapshot that is kept: got {after.rollback_to}. Kept are {kept}."
        return ""

    def settings_changed(self, before: Settings, after: Settings) -> None:
        """A revision was applied before the coming step."""
        if after.recovery is RecoveryMode.OFF:
            self.snapshots.release()
            self._cancel()
        if before.recovery is RecoveryMode.OFF is not after.recovery and self._watch is not None:
            self._watch.restart(self._boundary.step)
        if after.rollback_generation > before.rollback_generation:
            wanted = self._own(after.rollback_to)
            to_step = self.snapshots.good[-1] if wanted is None else wanted
            self._propose(
                Order(
                    action=Action.ROLL_BACK,
                    to_step=to_step,
                    reason=f"requested, rollback_generation {after.rollback_generation}",
                    held_lr=self._recovery.held_lr,
                )
            )

    # Parts.

    def _report(self) -> None:
        """To the server, with the next batch. Built where it changed: the training thread calls this at each step."""
        good, left = self.snapshots.good, self._policy.budget_left(self._boundary.step)
        statuses = self._watch.statuses if self._watch is not None else []
        now = ([self._number(step) for step in good], left, statuses)
        if now != self._reported:
            self._reported = now
            self._mailbox.recovery = RecoveryStatus(now[0], left, self._recovery.every_steps, statuses)

    def _cancel(self) -> None:
        """Nothing that was decided is carried out any more. On all ranks at the same boundary."""
        self._order = self.proposed = self._sent = self._alarm = None
        self._restored, self.broken_step = False, 0

    @property
    def _mode(self) -> RecoveryMode:
        return self._boundary.settings.recovery

    def _carry_out(self, order: Order) -> None:
        step = self._boundary.step
        self._alarm, self.broken_step = None, 0
        if self._watch is not None:
            advised = order.action is Action.ADVISE
            self._watch.restart(step, settle=self._recovery.every_steps if advised else 0, advised=advised)
        if order.action is Action.ADVISE:
            if order.to_step is None:
                what = f"would have rolled back, had there been a good snapshot: {order.reason}."
            else:
                what = (
                    f"would have rolled back from {self._shown(step)} to {self._shown(order.to_step)}: {order.reason}."
                )
            self._tell(NoteKind.ROLLBACK_ADVISED, what, order.to_step)
        elif order.action is Action.GIVE_UP:
            self._give_up(order)
        elif order.to_step is None:
            what = f"cannot roll back, no snapshot is good yet: {order.reason}. The run goes on as it is."
            if not self._told_without:
                self._tell(NoteKind.ROLLBACK_ADVISED, what, None)
            self._told_without = True
        elif self._order is None and self.proposed is None:
            self._propose(order)

    def _rolled_back(self, order: Order, to_step: int, left: Sequence[str]) -> None:
        step, recovery, boundary = self._boundary.step, self._recovery, self._boundary
        self.snapshots.drop_after(to_step)
        self._told_without = False
        if recovery.held_steps and order.held_lr != 1.0:
            boundary.hold(order.held_lr, recovery.held_steps)
        if self._watch is not None:
            self._watch.restart(step, settle=recovery.every_steps)
        batch_ids = tuple(each for at, each in self._batch_ids if to_step < at <= step)
        what = f"rolled back from {self._shown(step)} to {self._shown(to_step)}: {order.reason}."
        if recovery.held_steps and order.held_lr != 1.0:
            held = counted(recovery.held_steps, "step")
            what += f" The learning rate is held at {order.held_lr:g} times its value for {held}."
        if left:
            what += f" Not brought back, as it raised an error: {'; '.join(left)}."
            if self._watch is None:
                _log.error("%s", what)
        if batch_ids:
            more = f" and {len(batch_ids) - MAX_NAMED} before" if len(batch_ids) > MAX_NAMED else ""
            what += f" Batches: {', '.join(batch_ids[-MAX_NAMED:])}{more}."
        self._tell(NoteKind.ROLLBACK, what, to_step)
        event = RollbackEvent(step, to_step, order.reason, batch_ids)
        for callback in self.callbacks:
            try:
                callback(event)
            except Exception:
                self.callback_errors += 1
                _log.exception("the rollback callback %s failed; training continues", readable(callback, repr))

    def _give_up(self, order: Order) -> None:
        recovery, boundary = self._recovery, self._boundary
        stops = recovery.when_spent == "stop" or not self._resumable
        if stops and boundary.settings.stop:  # it was told, and the loop goes on
            return
        end = (
            "is asked to stop (agent.should_stop)" if stops else "is paused; the next change of its settings resumes it"
        )
        tried = counted(recovery.max_rollbacks, "rollback")
        what = (
            f"unrecoverable: {tried} within {recovery.budget_steps} steps did not help: {order.reason}. The run {end}."
        )
        self._tell(NoteKind.UNRECOVERABLE, what, None)
        boundary.halt(stop=stops, reason=what)

    def _tell(self, kind: NoteKind, what: str, to_step: int | None) -> None:
        if self._watch is None:
            return  # rank 0 does
        _log.warning("%s", what)
        value = None if to_step is None else float(self._number(to_step))
        step, now = self._boundary.step, time.time()
        self._mailbox.note(AgentNote(kind, step, now, 0, what, value))
        if kind is not NoteKind.ROLLBACK_ADVISED:  # also where nothing is ever changed or dropped
            self._mailbox.user_note(UserNote(step, now, what[:MAX_NOTE_LENGTH]))

    def _number(self, step: int) -> int:
        """Under which it is recorded: of a past step as it was then, the loop's numbers may have jumped since."""
        known = self.snapshots.number(step)
        return max(0, step + self._offset) if known is None else known

    def _shown(self, step: int) -> str:
        return str(self._number(step))

    def _own(self, number: int | None) -> int | None:
        if number is None:
            return None
        return next((each for each in self.snapshots.good if self._number(each) == number), number - self._offset)

    def _is_captured(self) -> bool:
        return torch.cuda.is_available() and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
