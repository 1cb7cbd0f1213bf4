"""What happens around one optimizer's step: settings, stabilization, the learning rate's factor, the record.

An exception of ours never reaches the training loop: it goes to `Faults`, and from then on gradients only pass, with
the gain that they had.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from steadynorm.faults import ErrorState
from steadynorm.parameters import Newcomers
from steadynorm.recording.recorder import Recorder
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.step_boundary import Boundary

__all__ = ["OptimizerHooks"]

_RATES = (float, int, Tensor)  # what a learning rate may be

_log = logging.getLogger("steadynorm")


class OptimizerHooks:
    """Hooks of one optimizer. begin: called once, before its first step."""

    def __init__(
        self, optimizer: Optimizer, index: int, boundary: Boundary, faults: ErrorState, begin: Callable[[], None]
    ) -> None:
        self.stabilizers: list[GradientStabilizer] = []  # one a device; none: another optimizer owns all parameters
        self.recorded: list[tuple[int, GradientStabilizer]] = []  # with their place in the run's table
        self.newcomers: Newcomers | None = None
        self.recorder: Recorder | None = None
        self.wake: Callable[[], None] = lambda: None
        self._index = index
        self._boundary = boundary
        self._faults = faults
        self._begin: Callable[[], None] | None = begin
        self._learning_rate: float | Tensor = float("nan")
        self._scaled: list[tuple[dict[str, Any], Any, Any]] = []  # group, its own rate, the rate in place of it
        self._early = False  # whether `before_clip` began the coming step, and stabilized its gradients
        self._inside = False  # whether a closure is running
        self._done = False  # whether the gradients that are there now have been stabilized
        self._evaluations = 0  # of the step's closure
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    @property
    def lr_scale(self) -> float:
        """The factor in force."""
        return self._boundary.settings.lr_scale

    def remove(self) -> None:
        """Take the hooks off the optimizer."""
        self.put_rates_back()  # the last step may have raised
        for handle in self._handles:
            handle.remove()

    def before_clip(self, optimizer: Optimizer) -> None:
        """Stabilize now: the coming step's gradients, or, from within its closure, the present ones.

        If the last one's step never came, this is the same step still.
        """
        if not self._inside and not self._early:
            self._enter(optimizer)
            self._early = True
        self._stabilize(optimizer, again=self._inside and self._evaluations > 0)
        self._evaluations += self._inside
        self._done = True

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        early, self._early = self._early, False
        self._evaluations = 0
        if not early:
            self._enter(optimizer)
        if len(args) > 1 and callable(args[1]):  # args[0] is the optimizer
            return (args[0], self._around(optimizer, args[1]), *args[2:]), kwargs
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._around(optimizer, kwargs["closure"])}
        if not early:
            self._stabilize(optimizer)
        return None

    def _enter(self, optimizer: Optimizer) -> None:
        self._boundary.meet(self._index)
        try:
            self.put_rates_back()  # a step that raised has not
            if not self._faults.off:
                self._arrive(optimizer)
        except Exception:
            self._faults.caught()
        try:
            # Also after a fault: a run that is held at a tenth of its rate must not jump to all of it.
            self._scale_rates(optimizer.param_groups, self._boundary.settings.lr_scale)
        except Exception:
            self._faults.caught()

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            self.put_rates_back()
            recorder, boundary = self.recorder, self._boundary
            if recorder is None or not self.recorded or self._faults.count:
                return
            for at, stabilizer in self.recorded:
                recorder.put(at, boundary.round, boundary.step, stabilizer.rows, self._learning_rate)
            if 2 * recorder.backlog() > recorder.capacity:
                self.wake()
        except Exception:
            self._faults.caught()

    def _arrive(self, optimizer: Optimizer) -> None:
        if self._begin is not None:
            self._begin()
            self._begin = None
        if self.newcomers is not None:
            self.stabilizers += self.newcomers.look(self._index)
        self._boundary.arrive(self._index)
        groups = optimizer.param_groups
        rate = groups[0].get("lr", float("nan"))
        if isinstance(rate, Tensor) and rate.device.type == "cpu":
            rate = float(rate)  # in host memory: no wait. One on a device stays there.
        self._learning_rate = rate if isinstance(rate, _RATES) else float("nan")

    def _scale_rates(self, groups: list[dict[str, Any]], scale: float) -> None:
        for group in groups if scale != 1.0 else ():
            own = group.get("lr")
            if isinstance(own, _RATES):  # Adafactor's may be None
                group["lr"] = own * scale
                self._scaled.append((group, own, group["lr"]))

    def put_rates_back(self) -> None:
        """The very objects that were there before. A rate that somebody set in the meantime stays."""
        if not self._scaled:
            return
        for group, own, scaled in self._scaled:
            if group["lr"] is scaled:
                group["lr"] = own
        self._scaled.clear()

    def _around(self, optimizer: Optimizer, closure: Callable[..., Any]) -> Callable[..., Any]:
        """A closure's gradients exist only after it ran: stabilize them then.

        The first evaluation of a step is measured and decides; a line search's further ones take over its scales.
        """

        @functools.wraps(closure)
        def stabilized(*args: Any, **kwargs: Any) -> Any:
            self._inside, self._done = True, False
            try:
                loss = closure(*args, **kwargs)
            finally:
                self._inside = False
            if not self._done:
                self._stabilize(optimizer, again=self._evaluations > 0)
                self._evaluations += 1
            return loss

        return stabilized

    def _stabilize(self, optimizer: Optimizer, *, again: bool = False) -> None:
        for stabilizer in list(self.stabilizers):
            self._stabilize_with(stabilizer, optimizer, again)

    def _stabilize_with(self, stabilizer: GradientStabilizer, optimizer: Optimizer, again: bool) -> None:
        met = stabilizer.collectives
        try:
            if again:
                stabilizer.apply_again()
            else:
                # What a GradScaler leaves on a fused optimizer for the time of its step.
                stabilizer.apply(getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None))
        except Exception:
            if self._faults.off and not stabilizer.sharded:  # and even passing fails
                self.stabilizers.remove(stabilizer)
            self._faults.caught()
            if stabilizer.collectives == met:
                self._sit_out(stabilizer)

    def _sit_out(self, stabilizer: GradientStabilizer) -> None:
        """Other ranks that hold shards wait for this one, whatever happened to it."""
        try:
            stabilizer.sit_out()
        except Exception:
            self._faults.caught()
