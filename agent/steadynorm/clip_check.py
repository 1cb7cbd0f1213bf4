"""What a loop does to gradients between two steps, and between `agent.before_clip()` and one; in its first steps.

Called at the wrong place before_clip() measures what is no gradient yet, or scales it more than once; a clip that
follows it takes back what the stabilizer decides; and a second step with the same gradients measures what is stabilized
already. Nothing of that raises.

Values are compared in host memory only: of an accelerator's gradients that would wait for the device within a step, and
break the capture of a graph. What those cannot show is left to the norms that are recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from types import FrameType

import torch
from torch import Tensor
from torch.optim import Optimizer

from steadynorm.arguments import unwrap_optimizers
from steadynorm.self_check import SelfCheck
from steadynorm.stabilizer.sharding import local_part
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm_contract.settings import Mode

STEPS = 5  # that are looked at, of those that before_clip() began
STALE = 2  # of those, that began with the gradients of the step before
COMPARED = 3  # of those in stabilize: whether gradients are changed after it
_SAMPLE = 4  # gradients, the smallest
_CALLERS = 8  # frames: torch's and the agent's own lie between a step's hook and the scaler

CLIP_AFTER_STABILIZER = "clip_after_stabilizer"

_Copies = list[tuple[Tensor, Tensor]]
"""Parameters, and copies of their gradients."""

_log = logging.getLogger("steadynorm")


class ClipCheck:
    """Of one optimizer. Costs a comparison a step once it is complete."""

    def __init__(self, check: SelfCheck) -> None:
        self._check = check
        self._calls = 0  # since the last step
        self._steps = 0
        self._repeated = 0  # steps with more than one call
        self._compared = 0
        self._kept: _Copies | None = None  # since before_clip(); None: it stabilized nothing
        self._left: _Copies = []  # since the last step, as it was stabilized
        self._looks = self._stale = 0  # for such ones, and how many steps began with them

    def measured(self, stabilizers: Sequence[GradientStabilizer]) -> None:
        """before_clip() was called, and has scaled."""
        self._calls += 1
        if self._compared >= COMPARED or CLIP_AFTER_STABILIZER in self._check.findings:
            return
        self._kept = _smallest(stabilizers) if _stabilize(stabilizers) else None

    def looks_at(self, stabilizers: Sequence[GradientStabilizer]) -> bool:
        """Whether `begins()` and `stabilized()` have anything to do in the coming step."""
        if self._left or self._looks >= STEPS:
            return bool(self._left)
        return _stabilize(stabilizers)

    def begins(self) -> None:
        """A step begins, and nothing of it is stabilized yet."""
        left, self._left = self._left, []
        if left:
            self._stale += not any(_differs(parameter, before) for parameter, before in left)
            if self._stale == STALE:
                self._check.report(
                    "stale_gradients",
                    "step() is called with the gradients of the step before, which are stabilized already: they are "
                    "measured and stabilized again, and the norms that are recorded are wrong. Call step() once for "
                    "each backward(), or optimizer.zero_grad() before it.",
                )

    def stabilized(self, stabilizers: Sequence[GradientStabilizer]) -> None:
        """The step's gradients are."""
        if self._looks < STEPS:
            self._looks += 1
            self._left = _smallest(stabilizers)

    def steps(self, caller: FrameType | None) -> None:
        """The step begins that before_clip() was called for. caller: of the hook."""
        calls, self._calls = self._calls, 0
        kept, self._kept = self._kept, None
        if self._steps < STEPS:
            self._steps += 1
            self._repeated += calls > 1
            if _scaler_steps(caller):
                self._check.report(
                    "before_clip_with_scaler",
                    "before_clip() is called although a GradScaler steps: unless scaler.unscale_(optimizer) comes "
                    "first it measures and scales gradients that are multiplied by the loss scale, and it knows "
                    "nothing of steps that the scaler skips. Leave before_clip() out: the agent measures when the "
                    "scaler steps.",
                )
                return
            if self._repeated == STEPS:
                self._check.report(
                    "before_clip_repeated",
                    f"before_clip() was called {calls} times for each step: what it has scaled is added to and scaled "
                    "again. Call it once a step, after the last backward() of an accumulated one, before the clip.",
                )
        if kept is not None and "before_clip_with_scaler" not in self._check.findings:
            self._compared += 1
            if any(_differs(parameter, before) for parameter, before in kept):
                self._check.report(
                    CLIP_AFTER_STABILIZER,
                    "gradients are changed between before_clip() and step() in mode stabilize: a clip there takes back "
                    "what the stabilizer decides, and with SGD it is another learning rate. Remove the clip, or attach "
                    "with mode='observe', or with mode='clip', which clips in its place.",
                )


def _stabilize(stabilizers: Sequence[GradientStabilizer]) -> bool:
    return any(each.settings.mode is Mode.STABILIZE for each in stabilizers)


@torch.no_grad()
def _smallest(stabilizers: Sequence[GradientStabilizer]) -> _Copies:
    """Some parameters whose gradients are stabilized and in host memory, with copies of these.

    One that is all zero, as of a head that this batch did not use, or empty, as a rank's part of a short tensor, would
    look unchanged whatever the loop did.
    """
    present = [
        parameter
        for stabilizer in stabilizers
        if stabilizer.settings.mode is Mode.STABILIZE
        for parameter in stabilizer.parameters
        if parameter.is_cpu and parameter.numel()
        if parameter.grad is not None and parameter.grad.layout is torch.strided
    ]
    parts = ((each, local_part(each.grad)) for each in sorted(present, key=Tensor.numel))
    return [(each, part.clone()) for each, part in islice((pair for pair in parts if pair[1].any()), _SAMPLE)]


@torch.no_grad()
def _differs(parameter: Tensor, before: Tensor) -> bool:
    gradient = parameter.grad
    return gradient is not None and not torch.equal(local_part(gradient), before)


def _scaler_steps(frame: FrameType | None) -> bool:
    """Whether a GradScaler that is enabled is among the callers."""
    for _ in range(_CALLERS):
        if frame is None:
            return False
        if frame.f_globals.get("__name__") == "torch.amp.grad_scaler":
            scaler = frame.f_locals.get("self")
            return bool(scaler is not None and scaler.is_enabled())
        frame = frame.f_back
    return False


def steps_next(attached: Sequence[Optimizer | None], optimizer: Optimizer | None) -> Sequence[Optimizer]:
    """The optimizers that `before_clip(optimizer)` is about, among those of the agent. Raises TypeError, ValueError."""
    if optimizer is None and len(attached) > 1:
        raise TypeError(
            f"before_clip() must be given the optimizer that steps next, since this agent has {len(attached)}: got "
            "none. The others may not have their gradients yet: use agent.before_clip(optimizer)."
        )
    chosen = [each for each in attached if each is not None] if optimizer is None else unwrap_optimizers(optimizer)
    if not all(any(each is known for known in attached) for each in chosen):
        raise ValueError(
            f"before_clip() must be given an optimizer of this agent: got another {type(optimizer).__name__}. "
            "Pass one that attach() was given."
        )
    return chosen


def warn_of_evaluations(optimizer: Optimizer, count: int) -> None:
    """A step in stabilize has evaluated its closure so many times."""
    _log.warning(
        "%s evaluates its closure %d times in a step. A step's gradients have the same scales, the next step's "
        "have others, so gradients of several steps cannot be compared. If this optimizer does that, or "
        "searches along a line, attach with mode='observe'; mode='stabilize' silences this.",
        *(type(optimizer).__name__, count),
    )
