"""`lr_scale` and `lr`: the learning rates of one optimizer are others while its `step()` runs, and at no other time.

So are options of its groups that knobs replace.

Schedulers, checkpoints, exception handlers, closures and the hooks of others read `group["lr"]`, and some write what
they compute from it: a scaled rate that they see stays for good. Step hooks alone cannot prevent that, since none is
called when `step()` raises. So `step` of this one optimizer is wrapped, as torch's schedulers wrap it.

What the optimizer itself computes from the scaled rate and keeps in its groups is put back into the scale of its own.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.optim import Optimizer, Rprop
from torch.utils.hooks import RemovableHandle

from steadynorm.knobs import OptimizerOption

RATE_TYPES = (float, int, Tensor)


def steps_by_rate(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Whether the group has a learning rate that matters. Adafactor's may be None; Rprop's is where it begins only."""
    return isinstance(group.get("lr"), RATE_TYPES) and not isinstance(optimizer, Rprop)


def has_rate(optimizers: Iterable[Optimizer]) -> bool:
    """Whether any group has one."""
    return any(steps_by_rate(each, group) for each in optimizers for group in each.param_groups)


def are_zero(groups: Iterable[dict[str, Any]]) -> bool:
    """Whether all groups have a rate, in host memory, that is zero: nothing waits for a device."""
    for group in groups:
        rate = group.get("lr")
        if not isinstance(rate, RATE_TYPES) or (isinstance(rate, Tensor) and rate.device.type != "cpu") or rate != 0:
            return False
    return True


class LearningRates:
    """Changes rates and options of `optimizer` for the time of a step. at_end: called as it ends, also by an error."""

    def __init__(self, optimizer: Optimizer, at_end: Callable[[], None]) -> None:
        self._optimizer = weakref.ref(optimizer)
        self.steps = 0  # that run: one, or none
        self._scale = 1.0  # of the step that runs
        self._lr: float | None = None
        self._options: Sequence[OptimizerOption] = ()
        self.changes = False  # whether anything is another in the step that runs
        self._replaced: list[tuple[dict[str, Any], str, Any, Any]] = []
        self.first: weakref.ref[LearningRates] = weakref.ref(self)  # whose first group's rate `lr` is
        # Of each group: its own rate, the scaled rate, and what else it keeps of rates, by name.
        self._scaled: list[tuple[dict[str, Any], Any, Any, dict[str, float]]] = []
        self._handles = [
            optimizer.register_state_dict_pre_hook(lambda _: self._before_state_dict()),
            optimizer.register_state_dict_post_hook(lambda *_: self._after_state_dict()),
        ]
        self._last: RemovableHandle | None = None
        self._saves_within_step = False

        def end() -> None:
            if self.steps:  # one that is compiled was not counted
                self.steps -= 1
            if self.changes:
                self.restore()
            at_end()

        self._unwrap = _wrap_step(optimizer, self._begins, end)

    def scale_after_the_hooks(
        self, optimizer: Optimizer, outside_graphs: Callable[[Callable[[], None]], Callable[[], None]]
    ) -> RemovableHandle:
        """Register the hook that multiplies: the hooks of others come before it, whenever they were registered.

        outside_graphs: hides a function from torch.compile.
        """
        multiply = outside_graphs(self._multiply)

        def scale(*_: object) -> None:
            if self.changes:
                multiply()

        self._last = optimizer.register_step_pre_hook(scale)
        return self._last

    def begin(self, scale: float, lr: float | None = None, options: Sequence[OptimizerOption] = ()) -> None:
        """The step begins: what is another in it takes its place once all hooks were called.

        lr: in place of the first group's rate, the others in proportion; None: they stay. scale: multiplies them.
        """
        self.restore()  # where the wrapper was bypassed, the last step may have raised
        self._scale, self._lr, self._options = scale, lr, options
        self.changes = scale != 1.0 or lr is not None or any(option.is_set for option in options)

    def is_of(self, optimizer: Optimizer) -> bool:
        """Whether these are the rates of `optimizer`."""
        return self._optimizer() is optimizer

    def own_first_group(self) -> tuple[Any, Any]:
        """The rate of its first group as the program has it, also during a step; and where a schedule began from."""
        optimizer = self._optimizer()
        if optimizer is None:
            return None, None
        group = optimizer.param_groups[0]
        own = next((own for each, own, _, _ in self._scaled if each is group), group.get("lr"))
        return own, group.get("initial_lr")

    def suspend(self) -> None:
        """Put back the very objects that were there before, for the moment. What was set meanwhile is kept."""
        for group, own, scaled, others in self._scaled:
            group["lr"] = own if group["lr"] is scaled else _own_scale(group["lr"], own, scaled)
            factor = self._factor(own, scaled)
            for name, before in others.items():
                if (now := group.get(name)) != before and isinstance(now, float):
                    found = now / factor if factor else before
                    group[name] = max(before, found) if "max" in name else found
        self._scaled.clear()
        for group, name, own, new in self._replaced:
            if group.get(name) is new:  # else the program has set it meanwhile
                group[name] = own
        self._replaced.clear()

    def resume(self) -> None:
        """Multiply again, if the step still runs."""
        optimizer = self._optimizer()
        if not self.changes or self._scaled or self._replaced or optimizer is None:
            return
        if self._scale != 1.0 or self._lr is not None:
            first, began = (None, None) if self._lr is None else (self.first() or self).own_first_group()
            for group in optimizer.param_groups:
                own = group.get("lr")
                if isinstance(own, RATE_TYPES):
                    others = {name: value for name, value in group.items() if _is_kept_rate(name, value)}
                    given = own if self._lr is None else in_proportion(self._lr, group, first, began)
                    group["lr"] = given * self._scale
                    self._scaled.append((group, own, group["lr"], others))
        for option in self._options:
            self._replaced += option.put(optimizer.param_groups)

    def _factor(self, own: Any, scaled: Any) -> float:
        """By which the group's rate is multiplied; 0 where that cannot be told without waiting for a device."""
        if self._lr is None:
            return self._scale
        return scaled / own if isinstance(own, float) and isinstance(scaled, float) and own else 0.0

    def _before_state_dict(self) -> None:
        self._saves_within_step = bool(self._scaled or self._replaced)
        self.suspend()

    def _after_state_dict(self) -> None:
        if self._saves_within_step:
            self.resume()

    def _multiply(self) -> None:
        """Also in a step within the step, whose optimizer may have set rates of its own before."""
        self.suspend()
        self.resume()

    def _begins(self) -> None:
        """A step, and its hooks are not called yet: the one that multiplies has to be the last."""
        self.steps += 1
        if self._last is None or not (hooks := self._last.hooks_dict_ref()):
            return
        if next(reversed(hooks)) != self._last.id and self._last.id in hooks:
            hooks.move_to_end(self._last.id)

    def restore(self) -> None:
        """The step ended, by an exception too."""
        if self._scaled or self._replaced:
            self.suspend()
        self._scale, self._lr, self._options, self.changes = 1.0, None, (), False

    def remove(self) -> None:
        """The agent is closed."""
        self.restore()
        self._last = None
        for handle in self._handles:
            handle.remove()
        self._unwrap()


def in_proportion(lr: float, group: dict[str, Any], first: Any, began: Any) -> Any:
    """The group's rate where `lr` is that of the first group, `first` otherwise. began: that group's `initial_lr`.

    While the first group's is zero, as at the beginning of a warm-up, the proportion is that of the schedules' starts.
    A rate on a device stays there; beside one on a device, a rate in host memory stays as it is: nothing waits.
    """
    own = group["lr"]
    if isinstance(own, Tensor):
        ratio = own / first if isinstance(first, RATE_TYPES) else torch.ones_like(own)
        return lr * torch.where(torch.isfinite(ratio), ratio, 1.0)
    if isinstance(first, Tensor):
        if first.device.type != "cpu":
            return own
        first = float(first)
    if not isinstance(first, int | float) or own == first:
        return lr
    if first:
        return own * (lr / first)
    start = group.get("initial_lr")
    known = all(isinstance(each, int | float) and each > 0 for each in (start, began))
    return lr * (start / began) if known else lr


def _is_kept_rate(name: str, value: object) -> bool:
    """Whether a group's entry is a rate that an optimizer keeps for itself, such as schedule-free's `lr_max`."""
    return "lr" in name and name != "lr" and isinstance(value, float)


def _own_scale(now: Any, own: Any, scaled: Any) -> Any:
    """A rate that the optimizer's own step has set, without the factor where it was computed from the scaled one.

    `lr *= 0.99` in each step would else multiply by the factor in each step, for good. One that was set without regard
    to the old one stays. Which it is shows where it lies.
    """
    if not all(isinstance(each, float) and each > 0 for each in (now, own, scaled)):
        return now
    relative = abs(math.log(now / scaled)) < abs(math.log(now / own))
    return now * (own / scaled) if relative else now


def _wrap_step(optimizer: Optimizer, at_begin: Callable[[], None], at_end: Callable[[], None]) -> Callable[[], None]:
    """Call these whenever `optimizer.step()` begins, and ends. Returns what undoes it."""
    reference = weakref.ref(optimizer)
    before = vars(optimizer).get("step")  # a scheduler's wrapper, for example; else the class has the method

    @functools.wraps(before or type(optimizer).step)
    def step(_: object, *args: Any, **kwargs: Any) -> Any:
        if not is_compiling():  # which could not follow what it does
            at_begin()
        try:
            if before is not None:
                return before(*args, **kwargs)
            stepping = reference()
            return type(stepping).step(stepping, *args, **kwargs)  # type: ignore[arg-type, union-attr]  # it is called
        finally:
            at_end()

    # A method, since schedulers ask for its function; of a proxy, so that the optimizer does not hold itself.
    wrapped = MethodType(step, weakref.proxy(optimizer))
    optimizer.step = wrapped  # type: ignore[method-assign]  # of this instance
    ours = weakref.ref(wrapped)  # it holds whoever calls unwrap()

    def unwrap() -> None:
        stepping = reference()
        if stepping is None or vars(stepping).get("step") is not ours():  # others have wrapped it since
            return
        if before is not None:
            stepping.step = before  # type: ignore[method-assign]
        else:
            del stepping.step

    return unwrap
