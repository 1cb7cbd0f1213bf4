"""What happens around one optimizer's step: settings, stabilization, the learning rate's factor, the record.

An internal exception never reaches the training loop: it goes to `ErrorState`, and from then on gradients only pass
through, with the gain that they had.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from torch import Tensor
from torch.cuda import is_current_stream_capturing
from torch.optim import Optimizer

from steadynorm.clip_check import ClipCheck, warn_of_evaluations
from steadynorm.distributed.ranks import Ranks
from steadynorm.faults import ErrorState
from steadynorm.knobs import OptimizerOption
from steadynorm.learning_rates import RATE_TYPES, LearningRates, are_zero
from steadynorm.parameters import ParameterTracker
from steadynorm.recording.recorder import Recorder
from steadynorm.recovery.control import RecoveryControl
from steadynorm.self_check import SelfCheck
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.step_boundary import MAX_EMPTY_STEPS, StepBoundary
from steadynorm.step_frames import calling_frame, is_caller, outside_graphs
from steadynorm.transport.publisher import Publisher
from steadynorm_contract.settings import Mode

_log = logging.getLogger("steadynorm")


class OptimizerHooks:
    """Hooks of one optimizer, the `index`-th of its agent.

    A subclass's `step()` that calls `super().step()` runs the hooks of both; only the outer ones do anything.

    recorded: its stabilizers, one per device, with their place in the run's table; none where another optimizer owns
    all its parameters. recorder, publisher: None where nothing is sent. owner: kept alive as long as the optimizer, by
    a hook. Nothing that the owner holds refers back to it, so both are freed when the optimizer is, at once.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        index: int,
        boundary: StepBoundary,
        errors: ErrorState,
        ranks: Ranks | None,
        tracker: ParameterTracker,
        check: SelfCheck,
        recorded: Sequence[tuple[int, GradientStabilizer]],
        recorder: Recorder | None,
        publisher: Publisher | None,
        owner: object,
        *,
        mode_is_given: bool = True,
        recovery: RecoveryControl | None = None,
    ) -> None:
        self.stabilizers = [stabilizer for _, stabilizer in recorded]  # and those of parameters that come later
        self._index = index
        self._boundary = boundary
        self._errors = errors
        self._ranks = ranks
        self._tracker = tracker
        self._check, self._clip_check = check, ClipCheck(check)
        self._recorded, self._recorder = recorded, recorder
        self._publisher = publisher
        self._recovery = recovery
        self._learning_rate: float | Tensor = float("nan")
        self._step_frame: FrameType | None = None  # of the step that runs
        self._depth = 0  # of steps within it
        self._removed = False
        self._early = False  # whether `before_clip` began the coming step, and stabilized its gradients
        self._counts = False  # whether the step that runs counts
        self._inside = False  # whether a closure is running
        self._stabilized = False  # whether the current gradients have been stabilized
        self._evaluations = 0  # of the step's closure
        self._warn_of_evaluations = not mode_is_given
        self._rates = LearningRates(optimizer, self._forget_step)
        self.options: list[OptimizerOption] = []  # that knobs may replace
        after = optimizer.register_step_post_hook(outside_graphs(self._after))
        # First of all: hooks that were registered before, such as a scheduler's, see the rates as they are.
        if (hooks := after.hooks_dict_ref()) is not None:
            hooks.move_to_end(after.id, last=False)
        self._handles = [
            optimizer.register_step_pre_hook(outside_graphs(self._before)),
            after,
            optimizer.register_step_post_hook(functools.partial(self._after_all, owner)),
            self._rates.scale_after_the_hooks(optimizer, outside_graphs),
        ]

    def is_of(self, optimizer: Optimizer) -> bool:
        """Whether these are the hooks of `optimizer`."""
        return self._rates.is_of(optimizer)

    def follows(self, first: OptimizerHooks) -> None:
        """`lr` is the rate of the first optimizer's first group; the others' are in proportion to it."""
        self._rates.first = weakref.ref(first._rates)

    @property
    def replaced(self) -> str:
        """What operators have set in place of the program's own, in words; empty: nothing."""
        settings = self._boundary.settings
        scale = self._boundary.lr_scale
        words = [f"lr_scale was {scale:g}"] if scale != 1.0 else []
        words += [] if settings.lr is None else [f"lr was {settings.lr:g}"]
        return ", ".join(words + [f"{option.option} was set" for option in self.options if option.is_set])

    def remove(self) -> None:
        """Take the hooks off the optimizer."""
        self._removed = True
        self._rates.remove()
        if not (self._rates.steps or self._is_within_step()):  # else torch may be going through them, in any thread
            self._remove_handles()

    def _remove_handles(self) -> None:
        for handle in self._handles:
            handle.remove()

    def stop_recording(self) -> None:
        """In a forked child: nothing is recorded or sent."""
        self._recorder = self._publisher = self._recovery = None

    def before_clip(self, optimizer: Optimizer) -> None:
        """Stabilize now: the coming step's gradients, or, from within its closure, the present ones.

        If the last call's step never came, this is still the same step.
        """
        if not self._inside and not self._early:
            if not self._enter(optimizer, closure=False):
                return
            self._early = True
        self._stabilize(optimizer, again=self._inside and self._evaluations > 0)
        self._evaluations += self._inside
        self._stabilized = True
        if not self._inside:
            self._look(lambda: self._clip_check.measured(self.stabilizers))

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._removed or (len(args) == 1 and not kwargs and self._goes_on(optimizer)):
            return None
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)  # args[0] is the optimizer
        closure = closure if callable(closure) else None
        if self._is_within_step():
            self._depth += 1
        else:
            self._step_frame, self._depth = calling_frame(), 0
            self._boundary.step_calls += 1
            early, self._early = self._early, False
            self._evaluations = 0
            self._counts = early or self._enter(optimizer, closure=closure is not None)
            if self._boundary.closed:  # while it was paused
                return None
            self._begin_rates()
            if early:
                self._look(lambda: self._clip_check.steps(self._step_frame))
            elif closure is None and self._counts:
                if looks := self._clip_check.looks_at(self.stabilizers):
                    self._look(self._clip_check.begins)
                self._stabilize(optimizer)
                if looks:
                    self._look(lambda: self._clip_check.stabilized(self.stabilizers))
        if closure is None or not self._counts or getattr(closure, "hooks", None) is self:
            return None
        wrapped = self._wrap_closure(optimizer, closure)
        return (
            (args, {**kwargs, "closure": wrapped}) if kwargs.get("closure") else ((args[0], wrapped, *args[2:]), kwargs)
        )

    def _goes_on(self, optimizer: Optimizer) -> bool:
        """One of many optimizers, of one tensor each, steps in a step that another has begun. False: no such step.

        With hundreds of them, what `_before` looks at and finds as it was would cost more than all the rest.
        """
        boundary, groups = self._boundary, optimizer.param_groups
        if (
            len(self.stabilizers) != 1
            or len(groups) != 1
            or self._step_frame is not None
            or self._early
            or self._errors.count
            or boundary.closed
        ):
            return False
        stabilizer, rate = self.stabilizers[0], groups[0].get("lr")
        ours, theirs = stabilizer.parameters, groups[0]["params"]
        if (
            not len(ours) == len(theirs) == 1
            or ours[0] is not theirs[0]
            or type(rate) is not float
            or not rate
            or self._clip_check.looks_at(self.stabilizers)
            or not boundary.joins_step(self._index)
        ):
            return False
        self._step_frame, self._depth = calling_frame(), 0
        self._evaluations, self._counts, self._learning_rate = 0, True, rate
        self._begin_rates()
        self._stabilize_with(stabilizer, optimizer, again=False)
        return True

    def _begin_rates(self) -> None:
        """Also after an error: a run that is held at a tenth of its rate must not jump to all of it."""
        scale, lr = self._boundary.lr_scale, self._boundary.settings.lr
        try:
            if scale != 1.0 or lr is not None or self.options or self._rates.changes:
                self._rates.begin(scale, lr, self.options)
        except Exception:
            self._errors.record()

    def _look(self, check: Callable[[], None]) -> None:
        try:
            if not self._errors.off:
                check()
        except Exception:
            self._errors.record()

    def _forget_step(self) -> None:
        """A frame holds the optimizer and all callers' variables. Where a step raised, no hook is called."""
        self._step_frame = None
        if self._removed:
            self._remove_handles()

    def _is_within_step(self) -> bool:
        """Whether the step that began last is one of the callers. If it is not, it has raised."""
        return self._step_frame is not None and is_caller(self._step_frame)

    def _enter(self, optimizer: Optimizer, *, closure: bool) -> bool:
        """Begin a step. False if it does not count."""
        boundary, ranks = self._boundary, self._ranks
        try:
            if not self._errors.off:
                self._tracker.update(self._index, optimizer.param_groups, self.stabilizers)
            empty = not (closure or self._errors.off) and self._is_empty(optimizer)
        except Exception:
            empty = False
            self._errors.record()
        if ranks is None and empty:
            boundary.ignore_step()
            return False
        starts_step = boundary.starts_step(self._index)
        if starts_step and self._recovery is not None:
            self._recovery.finish_round()
        if starts_step and ranks is not None:
            ranks.sync_ranks()
        if empty:
            boundary.ignore_step()
            return False
        try:
            if not self._errors.off:
                self._begin(optimizer, starts_step)
        except Exception:
            self._errors.record()
        return True

    def _is_empty(self, optimizer: Optimizer) -> bool:
        """Whether this step only makes the optimizer's state: it has no gradient but zeros.

        torch.distributed.checkpoint and other libraries take such a step, most of them with a rate of zero. Reading
        gradients waits for the device, so it is done before the first step that counts, and where no rate is set.
        """
        boundary, stabilizers = self._boundary, self.stabilizers
        rate = optimizer.param_groups[0].get("lr")
        if boundary.began and isinstance(rate, float) and rate:  # the common case costs no more
            return False
        shared = self._ranks is not None or any(stabilizer.sharded for stabilizer in stabilizers)
        if not stabilizers or (boundary.began and shared):
            return False
        if not boundary.began and boundary.empty_steps >= MAX_EMPTY_STEPS:
            return False
        # On several ranks, of which some may have no gradient yet, only what all of them know.
        if (boundary.began or shared) and not are_zero(optimizer.param_groups):
            return False
        if any(stabilizer.device.type == "cuda" for stabilizer in stabilizers) and is_current_stream_capturing():
            return False
        found = [stabilizer.has_gradient() for stabilizer in stabilizers]  # of all: it may be collective
        return not any(found)

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._removed:
            return
        try:
            if self._depth:
                self._check.nested_step()
                self._rates.suspend()
                return
            self._step_frame = None
            self._rates.restore()
            if not self._counts:
                return
            if self._evaluations > 1 and self._warn_of_evaluations:
                self._warn_of_evaluations = False
                if self._boundary.settings.mode is Mode.STABILIZE:
                    warn_of_evaluations(optimizer, self._evaluations)
            if not self._check.complete:
                self._check.saw_step(self._index)
            if self._recorder is not None:
                self._record()
        except Exception:
            self._errors.record()
        if self._recovery is not None:
            self._restore()

    def _restore(self) -> None:
        """Also after an error: the ranks agreed on it, and one that stays behind trains apart from the others."""
        if self._recovery is None or self._depth or not self._counts:
            return
        try:
            self._recovery.after_step()
        except Exception:
            self._errors.record()

    def _record(self) -> None:
        recorder, boundary = self._recorder, self._boundary
        if recorder is None or not self._recorded or self._errors.count:
            return
        for place, stabilizer in self._recorded:
            recorder.put(place, boundary.round, boundary.step, stabilizer.rows, self._learning_rate)
        if self._publisher is not None and 2 * recorder.backlog() > recorder.capacity:
            self._publisher.wake()

    def _after_all(self, owner: object, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """After the hooks of others: the rest of a subclass's step has scaled rates again."""
        if self._depth and not self._removed:
            self._depth -= 1
            self._rates.resume()

    def _begin(self, optimizer: Optimizer, starts_step: bool) -> None:
        if self._publisher is not None:
            # Not before the first step: a run that never steps is never registered, and can still load a checkpoint.
            self._publisher.start()
        if starts_step:
            if self._recovery is not None and not self._errors.count:
                self._recovery.before_step()
            self._boundary.begin_step()
        rate = optimizer.param_groups[0].get("lr", float("nan"))
        if isinstance(rate, Tensor) and rate.device.type == "cpu":
            rate = float(rate)  # in host memory: no wait. One on a device stays there.
        self._learning_rate = rate if isinstance(rate, RATE_TYPES) else float("nan")

    def restore_rates(self) -> None:
        """Between two steps there is nothing to restore, unless the last one raised."""
        self._rates.restore()

    def _wrap_closure(self, optimizer: Optimizer, closure: Callable[..., Any]) -> Callable[..., Any]:
        """A closure's gradients exist only after it ran: stabilize them then.

        The first evaluation of a step is measured and decides; a line search's further ones use the same scales.
        """

        @functools.wraps(closure)
        def stabilized(*args: Any, **kwargs: Any) -> Any:
            self._inside, self._stabilized = True, False
            self._rates.suspend()  # it is the program's code, as a scheduler in Lightning's training_step
            try:
                loss = closure(*args, **kwargs)
            finally:
                self._inside = False
                self._rates.resume()
            if not self._stabilized:
                self._stabilize(optimizer, again=self._evaluations > 0)
                self._evaluations += 1
            return loss

        stabilized.hooks = self  # type: ignore[attr-defined]  # a mark, for the steps within this one
        return stabilized

    def _stabilize(self, optimizer: Optimizer, *, again: bool = False) -> None:
        for stabilizer in list(self.stabilizers):
            self._stabilize_with(stabilizer, optimizer, again)

    def _stabilize_with(self, stabilizer: GradientStabilizer, optimizer: Optimizer, again: bool) -> None:
        entered = stabilizer.collectives if stabilizer.sharded else 0
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
            if stabilizer.sharded and stabilizer.collectives == entered:
                self._skip(stabilizer)

    def _skip(self, stabilizer: GradientStabilizer) -> None:
        """Other ranks that hold shards wait for this one, whatever failed here."""
        try:
            stabilizer.skip()
        except Exception:
            self._errors.record()
