"""Steps and the boundaries between them, the only places where settings change.

A step begins when an optimizer steps that has already stepped in the current one, so a loop that steps several
optimizers one after the other counts one step for all of them. Steps count from 1.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from torch.optim import Optimizer

from steadynorm.mailbox import InvalidSettings, Mailbox, SettingsUpdate
from steadynorm.stabilizer.stabilizer import STABILIZER_SETTINGS, GradientStabilizer
from steadynorm_contract.settings import Mode, Settings
from steadynorm_contract.telemetry import AppliedReport, Desired, RevisionOutcome

OBSERVE_RESUMED_STEPS = 100  # with an optimizer whose moments are already in the raw gradients' scale

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
        self.closed = False
        self.checkpoint_callbacks: list[Callable[[int], object]] = []
        self.callback_errors = 0
        self._optimizers = optimizers
        self._stabilizers = stabilizers
        self._mailbox = mailbox
        self._all_ranks = all_ranks
        self._stepped = [True] * len(optimizers)  # in the current step
        self._mode: Mode | None = None  # the stabilizers' mode as last configured here

    @property
    def applied(self) -> tuple[int, Settings]:
        """The revision in force and its settings."""
        return self._mailbox.applied

    def starts_step(self, index: int) -> bool:
        """Optimizer `index` is about to step: whether a new step starts with it. Call once; it cannot fail."""
        starts = self._stepped[index]
        if starts:
            self._stepped = [False] * len(self._stepped)
        self._stepped[index] = True
        return starts

    def begin_step(self) -> None:
        """Apply what is new, wait while the run is paused, and count the step."""
        if self.observe_left is None:
            self.observe_left = OBSERVE_RESUMED_STEPS if any(map(_has_stepped, self._optimizers)) else 0
        if not self._all_ranks:
            self._take_update()
            if self._is_paused():
                self._wait_while_paused()
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

    def restore(self, step: int, revision: int, settings: Settings, observe_left: int | None) -> None:
        """Continue from a checkpoint. The stabilizers have been restored, settings included."""
        self.step = self._mailbox.step = step
        self.observe_left = observe_left
        self._mailbox.resume(revision)
        self._set_settings(settings, revision)
        self._mode = None
        self._stepped = [True] * len(self._stepped)  # whichever optimizer comes first starts a new step

    def isolate(self) -> Mailbox:
        """After a fork: replace the mailbox by one that no other thread knows, and whose locks are free."""
        self._mailbox = Mailbox(self.settings)
        return self._mailbox

    def apply_or_reject(self, update: SettingsUpdate) -> None:
        """Apply all of a desired revision before the coming step, or nothing of it, and report which."""
        step = self.step + 1
        reason = update.reason if isinstance(update, InvalidSettings) else self._rejection_reason(update.settings)
        if isinstance(update, Desired) and not reason:
            self._apply(update, step)
        if reason:
            _log.warning("revision %d of the settings was rejected: %s", update.revision, reason)
        outcome = RevisionOutcome.REJECTED if reason else RevisionOutcome.APPLIED
        self._mailbox.report(AppliedReport(update.revision, step, outcome, self.settings, time.time(), reason))

    def would_pause(self, update: SettingsUpdate | None) -> bool:
        """Whether the run is paused once `update` is applied or rejected."""
        settings = self.settings
        if isinstance(update, Desired) and not self._rejection_reason(update.settings):
            settings = update.settings
        return self._is_paused(settings)

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

    def _rejection_reason(self, desired: Settings) -> str:
        """Which changes `allow` forbids; empty if none."""
        if self.allow is None:
            return ""
        outside = [
            f"{name}={getattr(desired, name)!s} (it is {getattr(self.settings, name)!s})"
            for name in desired.__struct_fields__
            if name not in self.allow and getattr(desired, name) != getattr(self.settings, name)
        ]
        if not outside:
            return ""
        allowed = ", ".join(self.allow) or "nothing"
        return (
            f"this run allows changes of {allowed} only: got {', '.join(outside)}. "
            "Set these back to their values to change the others."
        )

    def _apply(self, desired: Desired, step: int) -> None:
        before, after = self.settings, desired.settings
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
        self._set_settings(after, desired.revision)
        if after.checkpoint_generation > before.checkpoint_generation:
            self._request_checkpoint(step - 1)

    def _set_settings(self, settings: Settings, revision: int) -> None:
        self.settings = settings
        self._mailbox.applied = (revision, settings)

    def _request_checkpoint(self, step: int) -> None:
        if not self.checkpoint_callbacks:
            _log.warning("a checkpoint was requested, but no callback is registered: use agent.on_checkpoint(fn)")
        for callback in self.checkpoint_callbacks:
            try:
                callback(step)
            except Exception:
                self.callback_errors += 1
                _log.exception("the checkpoint callback %r failed; training continues", callback)


def _has_stepped(optimizer: Optimizer) -> bool:
    """Whether there are moments already. Some optimizers (Adagrad) allocate empty ones at once, and count steps."""
    for state in optimizer.state.values():
        steps = state.get("step") if isinstance(state, dict) else None
        return steps is None or bool(steps > 0)  # may wait for the device: once, before the first step
    return False
