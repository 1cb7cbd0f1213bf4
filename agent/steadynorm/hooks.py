"""What happens around one optimizer's step: settings, stabilization, the learning rate's factor, the record.

An internal exception never reaches the training loop: it goes to `ErrorState`, and from then on gradients only pass
through, with the gain that they had.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from steadynorm.distributed.ranks import Ranks
from steadynorm.faults import ErrorState
from steadynorm.parameters import ParameterTracker
from steadynorm.recording.recorder import Recorder
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.step_boundary import StepBoundary
from steadynorm.transport.publisher import Publisher

_RATES = (float, int, Tensor)  # types of a learning rate


class OptimizerHooks:
    """Hooks of one optimizer, the `index`-th of its agent.

    recorded: its stabilizers, one per device, with their place in the run's table; none where another optimizer owns
    all its parameters. recorder, publisher: None where nothing is sent. owner: kept alive as long as the optimizer.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        index: int,
        boundary: StepBoundary,
        errors: ErrorState,
        ranks: Ranks | None,
        tracker: ParameterTracker,
        recorded: Sequence[tuple[int, GradientStabilizer]],
        recorder: Recorder | None,
        publisher: Publisher | None,
        owner: object,
    ) -> None:
        self.stabilizers = [stabilizer for _, stabilizer in recorded]  # and those of parameters that come later
        self._index = index
        self._boundary = boundary
        self._errors = errors
        self._ranks = ranks
        self._tracker = tracker
        self._recorded = recorded
        self._recorder = recorder
        self._publisher = publisher
        self._owner = owner
        self._learning_rate: float | Tensor = float("nan")
        self._scaled: list[tuple[dict[str, Any], Any, Any]] = []  # group, its own rate, the scaled rate
        self._early = False  # whether `before_clip` began the coming step, and stabilized its gradients
        self._inside = False  # whether a closure is running
        self._stabilized = False  # whether the current gradients have been stabilized
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
        self.restore_rates()  # the last step may have raised
        for handle in self._handles:
            handle.remove()

    def stop_recording(self) -> None:
        """In a forked child: nothing is recorded or sent."""
        self._recorder = self._publisher = None

    def before_clip(self, optimizer: Optimizer) -> None:
        """Stabilize now: the coming step's gradients, or, from within its closure, the present ones.

        If the last call's step never came, this is still the same step.
        """
        if not self._inside and not self._early:
            self._enter(optimizer)
            self._early = True
        self._stabilize(optimizer, again=self._inside and self._evaluations > 0)
        self._evaluations += self._inside
        self._stabilized = True

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        early, self._early = self._early, False
        self._evaluations = 0
        if not early:
            self._enter(optimizer)
        if len(args) > 1 and callable(args[1]):  # args[0] is the optimizer
            return (args[0], self._wrap_closure(optimizer, args[1]), *args[2:]), kwargs
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._wrap_closure(optimizer, kwargs["closure"])}
        if not early:
            self._stabilize(optimizer)
        return None

    def _enter(self, optimizer: Optimizer) -> None:
        starts_step = self._boundary.starts_step(self._index)
        if starts_step and self._ranks is not None:
            self._ranks.sync_ranks()
        try:
            self.restore_rates()  # a step that raised has not
            if not self._errors.off:
                self._begin(optimizer, starts_step)
        except Exception:
            self._errors.record()
        try:
            # Also after an error: a run that is held at a tenth of its rate must not jump to all of it.
            self._scale_rates(optimizer.param_groups, self._boundary.settings.lr_scale)
        except Exception:
            self._errors.record()

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            self.restore_rates()
            recorder, boundary = self._recorder, self._boundary
            if recorder is None or not self._recorded or self._errors.count:
                return
            for place, stabilizer in self._recorded:
                recorder.put(place, boundary.round, boundary.step, stabilizer.rows, self._learning_rate)
            if self._publisher is not None and 2 * recorder.backlog() > recorder.capacity:
                self._publisher.wake()
        except Exception:
            self._errors.record()

    def _begin(self, optimizer: Optimizer, starts_step: bool) -> None:
        if self._publisher is not None:
            # Not before the first step: a run that never steps is never registered, and can still load a checkpoint.
            self._publisher.start()
        self.stabilizers += self._tracker.discover_new(self._index)
        if starts_step:
            self._boundary.begin_step()
        rate = optimizer.param_groups[0].get("lr", float("nan"))
        if isinstance(rate, Tensor) and rate.device.type == "cpu":
            rate = float(rate)  # in host memory: no wait. One on a device stays there.
        self._learning_rate = rate if isinstance(rate, _RATES) else float("nan")

    def _scale_rates(self, groups: list[dict[str, Any]], scale: float) -> None:
        for group in groups if scale != 1.0 else ():
            own = group.get("lr")
            if isinstance(own, _RATES):  # Adafactor's may be None
                group["lr"] = own * scale
                self._scaled.append((group, own, group["lr"]))

    def restore_rates(self) -> None:
        """Put back the very objects that were there before. A rate that was set in the meantime stays."""
        if not self._scaled:
            return
        for group, own, scaled in self._scaled:
            if group["lr"] is scaled:
                group["lr"] = own
        self._scaled.clear()

    def _wrap_closure(self, optimizer: Optimizer, closure: Callable[..., Any]) -> Callable[..., Any]:
        """A closure's gradients exist only after it ran: stabilize them then.

        The first evaluation of a step is measured and decides; a line search's further ones use the same scales.
        """

        @functools.wraps(closure)
        def stabilized(*args: Any, **kwargs: Any) -> Any:
            self._inside, self._stabilized = True, False
            try:
                loss = closure(*args, **kwargs)
            finally:
                self._inside = False
            if not self._stabilized:
                self._stabilize(optimizer, again=self._evaluations > 0)
                self._evaluations += 1
            return loss

        return stabilized

    def _stabilize(self, optimizer: Optimizer, *, again: bool = False) -> None:
        for stabilizer in list(self.stabilizers):
            self._stabilize_with(stabilizer, optimizer, again)

    def _stabilize_with(self, stabilizer: GradientStabilizer, optimizer: Optimizer, again: bool) -> None:
        entered = stabilizer.collectives
        try:
            if again:
                stabilizer.apply_again()
            else:
                # What a GradScaler leaves on a fused optimizer for the time of its step.
                stabilizer.apply(getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None))
        except Exception:
            if self._errors.off and not stabilizer.sharded:  # even passing through fails
                self.stabilizers.remove(stabilizer)
            self._errors.record()
            if stabilizer.collectives == entered:
                self._skip(stabilizer)

    def _skip(self, stabilizer: GradientStabilizer) -> None:
        """Other ranks that hold shards wait for this one, whatever failed here."""
        try:
            stabilizer.skip()
        except Exception:
            self._errors.record()
