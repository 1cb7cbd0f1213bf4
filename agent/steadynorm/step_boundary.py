"""Steps and the boundaries between them: where settings change, and nowhere else.

A step (a round of optimizers) begins when an optimizer steps that has already stepped in the present one, so that a
loop which steps several optimizers one after the other counts one step for all of them. Steps count from 1.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch.optim import Optimizer

from steadynorm.stabilizer.stabilizer import STABILIZER_SETTINGS, GradientStabilizer
from steadynorm.transport.http_client import InvalidSettings, SettingsUpdate
from steadynorm.transport.mailbox import Mailbox
from steadynorm_contract.settings import Mode, Settings
from steadynorm_contract.telemetry import AppliedReport, Desired, RevisionOutcome

if TYPE_CHECKING:
    from steadynorm.distributed.ranks import Ranks

__all__ = ["Boundary"]

OBSERVE_RESUMED_STEPS = 100  # with an optimizer whose moments are in the natural scale already

_log = logging.getLogger("steadynorm")


class Boundary:
    """Counts steps and applies settings between them. Lives in the training thread.

    allow: the only settings that may ever differ from those at attach; None: all. observe_steps: steps in `observe`
    before `stabilize` is entered; None: 0 for fresh optimizers, OBSERVE_RESUMED_STEPS for ones that have state.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        stabilizers: Sequence[GradientStabilizer],
        mailbox: Mailbox,
        *,
        allow: Sequence[str] | None = None,
        observe_steps: int | None = None,
    ) -> None:
        self.step = 0
        self.round = 0  # counts like step, and never goes back when a checkpoint is loaded
        self.settings = mailbox.applied[1]
        self.allow = None if allow is None else tuple(allow)
        self.observe_left = observe_steps  # None: decided at the first boundary
        self.closed = False
        self.ranks: Ranks | None = None  # None: this process is alone, and decides for itself
        self.checkpoint_callbacks: list[Callable[[int], object]] = []
        self.callback_errors = 0
        self._optimizers = optimizers
        self._stabilizers = stabilizers
        self._mailbox = mailbox
        self._stepped = [False] * len(optimizers)
        self._mode: Mode | None = None  # what the stabilizers were told last

    @property
    def applied(self) -> tuple[int, Settings]:
        """The revision in force and its settings."""
        return self._mailbox.applied

    def meet(self, index: int) -> None:
        """Optimizer `index` is about to step: the part of it that all ranks do together. Never raises."""
        if self.ranks is not None:
            self.ranks.meet(index)

    def arrive(self, index: int) -> bool:
        """Optimizer `index` is about to step. True if a new step begins with it."""
        begins = self.round == 0 or self._stepped[index]
        if begins:
            self._begin()
            self._stepped = [False] * len(self._stepped)
        self._stepped[index] = True
        return begins

    def restore(self, step: int, revision: int, settings: Settings, observe_left: int | None) -> None:
        """Go on from a checkpoint. The stabilizers have been restored, settings included."""
        self.step = self._mailbox.step = step
        self.observe_left = observe_left
        self._mailbox.resume(revision)
        self._put_in_force(settings, revision)
        self._mode = None
        self._stepped = [True] * len(self._stepped)  # whichever comes first begins a new step
        if self.ranks is not None:
            self.ranks.begin_anew()

    def isolate(self) -> Mailbox:
        """Exchange the mailbox for one that nobody else knows, and whose locks nobody holds: after a fork."""
        self._mailbox = Mailbox(self.settings)
        if self.ranks is not None:
            self.ranks.abandon()
        return self._mailbox

    def consider(self, offer: SettingsUpdate) -> None:
        """Apply, or reject, what all ranks have been offered."""
        self._consider(offer, self.step + 1)

    def would_wait(self, offer: SettingsUpdate | None) -> bool:
        """Whether the run is paused once `offer` is considered."""
        settings = self.settings
        if isinstance(offer, Desired) and not self._objection(offer.settings):
            settings = offer.settings
        return settings.paused and not settings.stop and not self.closed

    def _begin(self) -> None:
        if self.observe_left is None:
            self.observe_left = OBSERVE_RESUMED_STEPS if any(map(_has_stepped, self._optimizers)) else 0
        step = self.step + 1
        if self.ranks is None:  # else they have met and have considered it
            offer = self._mailbox.take()
            if offer is not None:
                self._consider(offer, step)
            if self._waiting():
                self._pause(step)
        mode = self.settings.mode
        if self.observe_left:
            self.observe_left -= 1
            mode = Mode.OBSERVE if mode is Mode.STABILIZE else mode
        if mode is not self._mode:
            for stabilizer in self._stabilizers:
                stabilizer.configure(mode=mode)
            self._mode = mode
        self.step = self._mailbox.step = step
        self.round += 1

    def _waiting(self) -> bool:
        return self.settings.paused and not self.settings.stop and not self.closed

    def _pause(self, step: int) -> None:
        _log.warning("paused before step %d by an operator; waiting", step)
        while self._waiting():
            self._mailbox.wait()
            offer = self._mailbox.take()
            if offer is not None:
                self._consider(offer, step)
        _log.warning("going on with step %d", step)

    def _consider(self, offer: SettingsUpdate, step: int) -> None:
        """Apply all of a desired revision or nothing of it, and report which."""
        if isinstance(offer, InvalidSettings):
            reason = offer.reason
        else:
            reason = self._objection(offer.settings)
            if not reason:
                self._apply(offer, step)
        outcome = RevisionOutcome.REJECTED if reason else RevisionOutcome.APPLIED
        if reason:
            _log.warning("revision %d of the settings was rejected: %s", offer.revision, reason)
        self._mailbox.report(AppliedReport(offer.revision, step, outcome, self.settings, time.time(), reason))

    def _objection(self, wanted: Settings) -> str:
        if self.allow is None:
            return ""
        outside = [
            f"{name}={getattr(wanted, name)!s} (it is {getattr(self.settings, name)!s})"
            for name in wanted.__struct_fields__
            if name not in self.allow and getattr(wanted, name) != getattr(self.settings, name)
        ]
        if not outside:
            return ""
        allowed = ", ".join(self.allow) or "nothing"
        return f"this job allows changes of {allowed} only: got {', '.join(outside)}. Put it back to change the others."

    def _apply(self, offer: Desired, step: int) -> None:
        before, after = self.settings, offer.settings
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
            self.observe_left = 0  # somebody decides: it holds from the step that is reported
        self._put_in_force(after, offer.revision)
        if after.checkpoint_generation > before.checkpoint_generation:
            self._call_for_checkpoint(step - 1)

    def _put_in_force(self, settings: Settings, revision: int) -> None:
        self.settings = settings
        self._mailbox.applied = (revision, settings)

    def _call_for_checkpoint(self, step: int) -> None:
        if not self.checkpoint_callbacks:
            _log.warning("a checkpoint was asked for, and no callback is registered: use agent.on_checkpoint(fn)")
        for callback in self.checkpoint_callbacks:
            try:
                callback(step)
            except Exception:
                self.callback_errors += 1
                _log.exception("the checkpoint callback %r failed; training goes on", callback)


def _has_stepped(optimizer: Optimizer) -> bool:
    """Whether there are moments already. Some optimizers (Adagrad) make empty ones at birth and count steps in them."""
    for state in optimizer.state.values():
        steps = state.get("step") if isinstance(state, dict) else None
        return steps is None or bool(steps > 0)  # may wait for the device: once, before the first step
    return False
