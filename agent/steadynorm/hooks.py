"""What happens around one optimizer's step: settings, stabilization, the learning rate's factor, the record.

An exception of ours never reaches the training loop: it goes to `Faults`, and from then on gradients only pass, with
the gain that they had.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from steadynorm.boundary import Boundary
from steadynorm.recorder import Recorder
from steadynorm.stabilizer import GradientStabilizer
from steadynorm_contract.settings import Mode

__all__ = ["Faults", "OptimizerHooks"]

_RATES = (float, int, Tensor)  # what a learning rate may be

_log = logging.getLogger("steadynorm")


class Faults:
    """Internal exceptions. The first one turns the agent off; `count` goes to the server."""

    def __init__(self, stabilizers: Sequence[GradientStabilizer], tell: Callable[[], None]) -> None:
        self.count = 0
        self._stabilizers = stabilizers
        self._tell = tell

    def caught(self) -> None:
        """Call in an `except` block."""
        self.count += 1
        if self.count > 1:
            return
        _log.exception("the agent met an internal error and turned itself off; training goes on. Please report this:")
        for stabilizer in self._stabilizers:
            try:
                stabilizer.configure(mode=Mode.OFF)
            except Exception:
                _log.debug("a stabilizer could not be turned off", exc_info=True)
        self._tell()


class OptimizerHooks:
    """Hooks of one optimizer. begin: called once, before its first step."""

    def __init__(
        self, optimizer: Optimizer, index: int, boundary: Boundary, faults: Faults, begin: Callable[[], None]
    ) -> None:
        self.stabilizer: GradientStabilizer | None = None  # None: another optimizer owns all of the parameters
        self.stabilizer_index = 0
        self.recorder: Recorder | None = None
        self.wake: Callable[[], None] = lambda: None
        self._index = index
        self._boundary = boundary
        self._faults = faults
        self._begin: Callable[[], None] | None = begin
        self._groups = len(optimizer.param_groups)
        self._learning_rate: float | Tensor = float("nan")
        self._scaled: list[tuple[dict[str, Any], Any, Any]] = []  # group, its own rate, the rate in place of it
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def remove(self) -> None:
        """Take the hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._faults.count:
            try:
                self._arrive(optimizer)
            except Exception:
                self._faults.caught()
        if len(args) > 1 and callable(args[1]):  # args[0] is the optimizer
            return (args[0], self._around(args[1]), *args[2:]), kwargs
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._around(kwargs["closure"])}
        self._stabilize()
        return None

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            self.put_rates_back()
            recorder, stabilizer, boundary = self.recorder, self.stabilizer, self._boundary
            if recorder is None or stabilizer is None or self._faults.count:
                return
            recorder.put(self.stabilizer_index, boundary.round, boundary.step, stabilizer.rows, self._learning_rate)
            if 2 * recorder.backlog() > recorder.capacity:
                self.wake()
        except Exception:
            self._faults.caught()

    def _arrive(self, optimizer: Optimizer) -> None:
        self.put_rates_back()  # a step that raised has not
        if self._begin is not None:
            self._begin()
            self._begin = None
        self._boundary.arrive(self._index)
        groups = optimizer.param_groups
        if len(groups) > self._groups:
            self._groups = len(groups)
            _log.warning("parameters that were added to an optimizer after attach() are not stabilized")
        rate = groups[0].get("lr", float("nan"))
        if isinstance(rate, Tensor) and rate.device.type == "cpu":
            rate = float(rate)  # in host memory: no wait. One on a device stays there.
        self._learning_rate = rate if isinstance(rate, _RATES) else float("nan")
        scale = self._boundary.settings.lr_scale
        if scale != 1.0:
            self._scale_rates(groups, scale)

    def _scale_rates(self, groups: list[dict[str, Any]], scale: float) -> None:
        for group in groups:
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

    def _around(self, closure: Callable[..., Any]) -> Callable[..., Any]:
        """A closure's gradients exist only after it ran: stabilize them then, at each evaluation."""

        @functools.wraps(closure)
        def stabilized(*args: Any, **kwargs: Any) -> Any:
            loss = closure(*args, **kwargs)
            self._stabilize()
            return loss

        return stabilized

    def _stabilize(self) -> None:
        stabilizer = self.stabilizer
        if stabilizer is None:
            return
        try:
            stabilizer.apply()
        except Exception:
            if self._faults.count:  # turned off already, and even passing fails
                self.stabilizer = None
            self._faults.caught()
