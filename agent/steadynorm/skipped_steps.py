"""Steps that a GradScaler leaves out: no optimizer steps, so no hook sees them. Once weights are NaN, that is all.

The scaler's own `step()` and `update()` tell of their calls. What happens at a boundary happens here too, but for the
step: ranks exchange, settings are applied, and a rollback that is decided is carried out at once.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from steadynorm.distributed.ranks import Ranks
from steadynorm.faults import ErrorState
from steadynorm.recovery.control import RecoveryControl
from steadynorm.step_boundary import StepBoundary

_log = logging.getLogger("steadynorm")


class SkippedSteps:
    """Follows one scaler for the agent of `optimizers`. Holds none of them alive, and the scaler does not hold this."""

    def __init__(
        self,
        scaler: Any,
        optimizers: Sequence[Optimizer],
        boundary: StepBoundary,
        errors: ErrorState,
        ranks: Ranks | None,
        recovery: RecoveryControl,
    ) -> None:
        self._boundary, self._errors, self._ranks, self._recovery = boundary, errors, ranks, recovery
        self._optimizers = [weakref.ref(optimizer) for optimizer in optimizers]
        self._tried = False  # whether the scaler was asked to step one of them since its last update
        self._calls = 0  # of their steps until then
        self._followed: list[_Followed] = []
        if not getattr(scaler, "is_enabled", lambda: True)():
            return
        try:
            for name, told in (("step", self._asked_to_step), ("update", self._updated)):
                if callable(getattr(scaler, name, None)):
                    self._followed.append(_Followed(scaler, name, told))
        except AttributeError:  # its class has slots
            _log.warning(
                "this %s does not let the agent see which steps it leaves out, so a run of which it leaves out all is "
                "not brought back: use torch.amp.GradScaler.",
                type(scaler).__name__,
            )

    def remove(self) -> None:
        """Leave the scaler as it was."""
        for each in self._followed:
            each.remove()
        self._followed.clear()

    def _asked_to_step(self, optimizer: object = None, *args: object, **kwargs: object) -> None:
        while optimizer is not None and not self._tried:
            self._tried = any(reference() is optimizer for reference in self._optimizers)
            optimizer = getattr(optimizer, "optimizer", None)  # what a wrapper wraps

    def _updated(self, *args: object, **kwargs: object) -> None:
        tried, self._tried = self._tried, False
        stepped, self._calls = self._boundary.step_calls != self._calls, self._boundary.step_calls
        if stepped:
            self._recovery.skipped = 0
        elif tried and not self._boundary.closed:
            self._skipped()

    def _skipped(self) -> None:
        """The order is that of a step: see `OptimizerHooks`."""
        self._recovery.finish_round()
        if self._ranks is not None:
            self._ranks.sync_ranks()
        try:
            if not self._errors.count:
                self._boundary.take_changes()
                self._recovery.step_skipped()
        except Exception:
            self._errors.record()
        try:
            self._recovery.after_step()
        except Exception:
            self._errors.record()
        self._recovery.finish_round()


class _Followed:
    """In place of a scaler's method: calls it, then `told` with the same arguments, if that is still there."""

    def __init__(self, scaler: Any, name: str, told: Callable[..., None]) -> None:
        self._scaler, self._name = weakref.ref(scaler), name
        self._before = vars(scaler).get(name)  # of another agent, or of the loop's own
        self._method: Callable[..., Any] = getattr(scaler, name)
        self._told: weakref.WeakMethod[Callable[..., None]] | None = weakref.WeakMethod(told)
        setattr(scaler, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._method(*args, **kwargs)
        if self._told is not None and (told := self._told()) is not None:
            told(*args, **kwargs)
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of the scaler, or a pickled one, has its own method."""
        return getattr, (self._scaler(), self._name)

    def remove(self) -> None:
        """Where something else has replaced it, that stays, and nothing is told any more."""
        scaler, self._told = self._scaler(), None
        if scaler is None or vars(scaler).get(self._name) is not self:
            return
        if self._before is None:
            delattr(scaler, self._name)
        else:
            setattr(scaler, self._name, self._before)
