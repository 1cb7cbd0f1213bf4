"""Steps and the boundaries between them, the only places where settings change.

A step begins when an optimizer steps that has already stepped in the current one, so a loop that steps several
optimizers one after the other counts one step for all of them. Steps count from 1.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace
from torch.optim import Optimizer

from steadynorm.knobs import LiveKnob, turn
from steadynorm.lifecycle import described, readable
from steadynorm.mailbox import DesiredAtStart, InvalidSettings, Mailbox, SettingsUpdate
from steadynorm.moments import has_moments
from steadynorm.refusals import forbidden, out_of_range, without_effect, without_recovery
from steadynorm.remarks import of_knobs, of_mode, of_stop
from steadynorm.stabilizer.options import STABILIZER_SETTINGS
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm_contract.knobs import MAX_KNOBS, Knob
from steadynorm_contract.settings import Mode, Settings, Transfer, with_knobs
from steadynorm_contract.telemetry import AgentNote, AppliedReport, Desired, NoteKind, RevisionOutcome

OBSERVE_RESUMED_STEPS = 100  # with an optimizer whose moments are already in the raw gradients' scale
STEPS_UNTIL_STOP = 1000  # a loop may look at the end of an epoch only
STEPS_UNTIL_READ = 10  # in which a loop that uses a knob has read it
MAX_EMPTY_STEPS = 10  # more without a gradient are no initialization: it is a training whose gradients are elsewhere

_log = logging.getLogger("steadynorm")


class StepBoundary:
    """Counts steps and applies settings between them. Lives in the training thread.

    allow: the only settings that may differ from those at attach; None: all. observe_steps: steps in `observe` before
    `stabilize` is entered; None: 0 for fresh optimizers, OBSERVE_RESUMED_STEPS for ones that have state.
    all_ranks: updates are not taken from the mailbox here; `apply_or_reject` is called on all ranks before the step.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        stabilizers: Sequence[GradientStabilizer],
        mailbox: Mailbox,
        *,
        allow: Sequence[str] | None = None,
        observe_steps: int | None = None,
        all_ranks: bool = False,
    ) -> None:
        self.step = 0
        self.round = 0  # counts like step, and does not go back when a checkpoint is loaded
        self.settings = mailbox.applied[1]
        self.allow = None if allow is None else tuple(allow)
        self.observe_left = observe_steps  # None: decided when the first step begins
        self.began = False  # whether a step with a gradient has begun since attach()
        self.step_calls = 0  # of the optimizers' step(), whether they count or not
        self.empty_steps = 0  # that did not count, see `ignore_step`
        self.closed = False
        self.checkpoint_callbacks: list[Callable[[int], object]] = []
        self.callback_errors = 0
        self.reads_stop = False  # the loop, at some time
        self.stop_was_read = False  # since an operator asked for it
        self._steps_since_stop = 0
        self.held_lr = 1.0  # factor on lr_scale, see `hold`
        self._held_left = 0
        self.keeps_snapshots = False
        self.refuses = without_recovery  # why what a change asks of recovery cannot be done; empty if it can
        self.on_applied: Callable[[Settings, Settings], None] = lambda before, after: None
        self.knobs: dict[str, Knob] = {}  # that the loop declared, by name
        self._live: dict[str, LiveKnob] = {}
        self._unread_since = 0  # the round in which the loop's reading of its knobs was last forgotten
        self._restored: Mapping[str, float | None] = {}  # of a checkpoint: knobs may be declared later
        self._asked = self.settings  # whose `recovery` and `rollback_generation` were the last to be asked for
        self._optimizers = [weakref.ref(optimizer) for optimizer in optimizers]
        self._stabilizers = stabilizers
        self._mailbox = mailbox
        self._all_ranks = all_ranks
        self._stepped = [True] * len(optimizers)  # in the current step
        self._mode: Mode | None = None  # the stabilizers' mode as last configured here

    @property
    def applied(self) -> tuple[int, Settings]:
        """The revision in force and its settings."""
        return self._mailbox.applied

    @property
    def lr_scale(self) -> float:
        """The factor on the learning rates in force."""
        return self.settings.lr_scale * self.held_lr

    @property
    def was_stopped(self) -> bool:
        """Whether the loop read an operator's stop: one that did not has ended by itself."""
        return self.settings.stop and self.stop_was_read

    def starts_step(self, index: int) -> bool:
        """Optimizer `index` is about to step: whether a new step starts with it. Call once; it cannot fail."""
        starts = self._stepped[index]
        if starts:
            self._stepped = [False] * len(self._stepped)
            if not self._held_left:
                self.held_lr = 1.0
            self._held_left = max(0, self._held_left - 1)
        self._stepped[index] = True
        return starts

    def declare(self, knob: Knob) -> LiveKnob:
        """Add a knob. Raises ValueError where its name is taken, RuntimeError once the first step has begun."""
        if self.began:
            raise RuntimeError(
                f"knob {knob.name} must be declared before the first step: {self.step} were taken. Call agent.knob() "
                "right after attach()."
            )
        if knob.name in self.knobs:
            raise ValueError(f"each knob must have a name of its own: got {knob.name} twice. Choose another.")
        if len(self.knobs) >= MAX_KNOBS:
            raise ValueError(f"a run has at most {MAX_KNOBS} knobs: got one more, {knob.name}. Declare fewer.")
        self.knobs[knob.name] = knob
        self._live[knob.name] = live = LiveKnob(knob.name, knob.initial)
        self._mailbox.knobs = tuple(self.knobs.values())
        self._set_settings(self._with_knobs(self.settings), self._mailbox.applied[0])
        return live

    def joins_step(self, index: int) -> bool:
        """As `starts_step()`, where that is false: a step has begun in which optimizer `index` has yet to step."""
        if self._stepped[index] or not self.began:
            return False
        self._stepped[index] = True
        self.step_calls += 1
        return True

    def hold(self, factor: float, steps: int) -> None:
        """Multiply the learning rates by `factor` for so many steps, whatever else fails meanwhile."""
        self.held_lr, self._held_left = factor, steps

    def ignore_step(self) -> None:
        """The step that was about to begin has no gradient, and only makes the optimizer's state: it does not count."""
        self.empty_steps += 1
        self._stepped = [True] * len(self._stepped)  # whichever optimizer comes next starts a step

    def begin_step(self) -> None:
        """Apply what is new, wait while the run is paused, and count the step."""
        if not self.began:
            self._forget_reads()
        self.began = True
        if self.observe_left is None:
            self.observe_left = self._steps_to_observe()
        self.take_changes()
        if self.settings.stop and not self.stop_was_read:
            self._look_whether_it_stops()
        mode = self.settings.mode
        if self.observe_left:
            self.observe_left -= 1
            mode = Mode.OBSERVE if mode is Mode.STABILIZE else mode
        if mode is not self._mode:
            for stabilizer in self._stabilizers:
                stabilizer.configure(mode=mode)
            self._mode = mode
        self.step = self._mailbox.step = self.step + 1
        self.round += 1

    def take_changes(self) -> None:
        """Apply what is new, and wait while the run is paused. Several ranks do that together, in their exchange."""
        if not self._all_ranks:
            self._take_update()
            if self._is_paused():
                self._wait_while_paused()

    def restore(self, step: int, revision: int, settings: Settings, observe_left: int | None) -> None:
        """Continue from a checkpoint. The stabilizers have been restored, settings included."""
        self.step = self._mailbox.step = step
        self.observe_left = observe_left
        self._mailbox.resume(revision)
        self._restored = settings.knobs
        settings = self._with_knobs(settings)
        self._asked = settings
        self._set_settings(settings, revision)
        self._mode = None
        self._stepped = [True] * len(self._stepped)  # whichever optimizer comes first starts a new step

    def isolate(self) -> Mailbox:
        """After a fork: replace the mailbox by one that no other thread knows, and whose locks are free."""
        self._mailbox = Mailbox(self.settings)
        return self._mailbox

    def apply_or_reject(self, update: SettingsUpdate) -> None:
        """Apply all of a desired revision before the coming step, or nothing of it, and report which.

        What it asks of recovery and cannot be done now is left out of it, for good: it must neither keep the rest, such
        as a pause, from being applied, nor be made up for with a later revision.
        """
        step, outcome, saves, remark = self.step + 1, RevisionOutcome.REJECTED, False, ""
        if isinstance(update, InvalidSettings):
            reason = update.reason
        else:
            settings, reason = self._possible(update)
            acts = not reason and update.settings.rollback_generation > self._asked.rollback_generation
            self._asked = update.settings
            if settings is not None:
                outcome = RevisionOutcome.APPLIED
                before = self.settings
                remark = self._remark(before, settings)
                self._apply(settings, update.revision, rolls_back=acts and type(update) is Desired)
                saves = settings.checkpoint_generation > before.checkpoint_generation
        if reason:
            what = "rejected" if outcome is RevisionOutcome.REJECTED else "applied but for what it asks of recovery"
            _log.warning("revision %d of the settings was %s: %s", update.revision, what, reason)
        reason = f"{reason} {remark}".strip()
        self._mailbox.report(AppliedReport(update.revision, step, outcome, self.settings, time.time(), reason))
        if saves:  # last: a callback may take long, close the agent, or end the process
            self._request_checkpoint(step - 1)

    def fall_back_to_observe(self, reason: str) -> None:
        """From the coming step on nothing is scaled, until an operator sets the mode again.

        Not even by the gain that bumpless transfer would keep: each rank has its own.
        """
        revision, settings = self._mailbox.applied
        if settings.mode in (Mode.OFF, Mode.OBSERVE):
            return
        self._set_settings(replace(settings, mode=Mode.OBSERVE, transfer=Transfer.PLAIN), revision)
        for stabilizer in self._stabilizers:
            stabilizer.configure(transfer=Transfer.PLAIN)
        outcome = RevisionOutcome.APPLIED
        self._mailbox.report(AppliedReport(revision, self.step + 1, outcome, self.settings, time.time(), reason))

    def halt(self, *, stop: bool, reason: str) -> None:
        """Pause before the coming step, or ask the loop to stop, until the settings are changed again."""
        revision, settings = self._mailbox.applied
        self._set_settings(replace(settings, **{"stop" if stop else "paused": True}), revision)
        outcome = RevisionOutcome.APPLIED
        self._mailbox.report(AppliedReport(revision, self.step + 1, outcome, self.settings, time.time(), reason))

    def would_pause(self, update: SettingsUpdate | None) -> bool:
        """Whether the run is paused once `update` is applied or rejected."""
        settings = self.settings
        if isinstance(update, Desired):
            settings = self._possible(update)[0] or settings
        return self._is_paused(settings)

    def _attached(self) -> list[Optimizer]:
        return [optimizer for reference in self._optimizers if (optimizer := reference()) is not None]

    def _steps_to_observe(self) -> int:
        if not any(map(has_moments, self._attached())):
            return 0
        if self.settings.mode is Mode.STABILIZE:
            _log.warning(
                "this optimizer has state: observed for %d steps, then stabilized; observe_steps=0 to begin at once",
                OBSERVE_RESUMED_STEPS,
            )
        return OBSERVE_RESUMED_STEPS

    def _is_paused(self, settings: Settings | None = None) -> bool:
        settings = settings or self.settings
        return settings.paused and not settings.stop and not self.closed

    def _take_update(self) -> None:
        update = self._mailbox.take()
        if update is not None:
            self.apply_or_reject(update)

    def _wait_while_paused(self) -> None:
        _log.warning("paused by an operator before step %d; waiting", self.step + 1)
        while self._is_paused():
            self._mailbox.wait()
            self._take_update()
        _log.warning("resumed at step %d", self.step + 1)

    def _possible(self, update: Desired) -> tuple[Settings | None, str]:
        """What of a revision can be applied, None if nothing, and why not all of it; empty if all."""
        if type(update) is Desired and (reason := out_of_range(self.settings, update.settings, self.knobs)):
            return None, reason
        desired, now, asked = self._with_knobs(update.settings), self.settings, self._asked
        if isinstance(update, DesiredAtStart):
            asked = desired
        before = replace(now, recovery=asked.recovery, rollback_generation=asked.rollback_generation)
        refusal = self.refuses(before, desired)
        possible = desired if self.keeps_snapshots else replace(desired, recovery=now.recovery)
        if reason := forbidden(now, possible, self.allow) or without_effect(now, possible, self._attached()):
            return None, reason
        own = replace(now, rollback_generation=desired.rollback_generation, rollback_to=desired.rollback_to)
        return (None if refusal and possible == own else possible), refusal

    def _with_knobs(self, settings: Settings) -> Settings:
        """`settings` with the knobs that the loop declared: a server may know those of an earlier program."""
        return with_knobs(settings, list(self.knobs.values()), {**self._restored, **self.settings.knobs})

    def _remark(self, before: Settings, after: Settings) -> str:
        """What is to be said of a change that is about to be applied; empty if nothing."""
        said = [
            of_stop(before, after, is_read=self.reads_stop or not self.round),
            of_mode(before, after, self._attached()),
        ]
        changed = [name for name in self.knobs if after.knobs[name] != before.knobs[name]]
        if changed and (steps := self.round - self._unread_since) >= STEPS_UNTIL_READ:
            unread = [name for name in changed if not (self.knobs[name].own or self._live[name].is_read)]
            said.append(of_knobs(unread, steps))
            self._forget_reads()
        return " ".join(filter(None, said))

    def _forget_reads(self) -> None:
        """Whether the loop reads its knobs is to be seen in the steps that follow."""
        self._unread_since = self.round
        for live in self._live.values():
            live.is_read = False

    def _apply(self, after: Settings, revision: int, *, rolls_back: bool) -> None:
        before = self.settings
        changes = {
            name: getattr(after, name)
            for name in STABILIZER_SETTINGS
            if name != "mode" and getattr(after, name) != getattr(before, name)
        }
        for stabilizer in self._stabilizers:
            if changes:
                stabilizer.configure(**changes)
            if after.reset_generation > before.reset_generation:
                stabilizer.reset()
        if after.mode is not before.mode:
            self.observe_left = 0  # an operator chose the mode: it holds from the step that is reported
        self._set_settings(after, revision)
        self.on_applied(before if rolls_back else replace(before, rollback_generation=after.rollback_generation), after)

    def _look_whether_it_stops(self) -> None:
        """The request is applied in any case, and nothing stops a loop that does not ask."""
        self._steps_since_stop += 1
        if self._steps_since_stop == STEPS_UNTIL_STOP:
            what = (
                f"an operator asked this run to stop {STEPS_UNTIL_STOP} steps ago, and the loop has not read "
                "agent.should_stop since: it stops where it does so next, if at all. Read it after each step."
            )
            _log.warning("%s", what)
            self._tell(self.step, what)

    def _set_settings(self, settings: Settings, revision: int) -> None:
        if settings.stop and not self.settings.stop:
            self.stop_was_read, self._steps_since_stop = False, 0
        if settings.knobs != self.settings.knobs:
            for name, live in self._live.items():
                turn(live, self.knobs[name], settings.knobs[name])
        if settings.detail_every != self.settings.detail_every:
            self._mailbox.put_detail(self.round + 1, settings.detail_every)
        self.settings = settings
        self._mailbox.applied = (revision, settings)

    def _request_checkpoint(self, step: int) -> None:
        if not self.checkpoint_callbacks:
            _log.warning("a checkpoint was requested, but no callback is registered: use agent.on_checkpoint(fn)")
            self._tell(
                step, "no checkpoint was saved: the job has no function for it. Add one: agent.on_checkpoint(fn)"
            )
        for callback in self.checkpoint_callbacks:
            try:
                callback(step)
            except Exception as error:
                self.callback_errors += 1
                _log.exception("the checkpoint callback %s failed; training continues", readable(callback, repr))
                why = described(error)[:300]
                self._tell(step, f"the checkpoint that was asked for failed: {why}. The job's log has the traceback.")

    def _tell(self, step: int, message: str) -> None:
        """The server: whoever asked for a checkpoint may not read the job's log."""
        self._mailbox.note(AgentNote(NoteKind.FINDING, step, time.time(), 0, message))
