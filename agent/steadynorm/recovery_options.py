"""`Recovery`, the argument of `attach()`: what is kept, what raises an alarm, and how much may be done about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from steadynorm_contract.conditions import Condition, condition_errors, parse_condition
from steadynorm_contract.settings import RecoveryMode

DETECTORS = (
    "loss is nan for 2 steps",
    "loss > mean + 10 sigma of 200 for 5 steps",
    "loss > mean + 3 sigma of 200, 20 times in 30 steps",
    "raw_norm > 100 x median of 200 for 5 steps",
)
"""The detectors of a `Recovery` that names none. Weights that are not finite in a snapshot are always one.

None on `nonfinite`: the stabilizer, or a GradScaler, leaves such gradients out, and what does break weights or the loss
is found by them.
"""


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Keep snapshots in host memory, and roll back to one when the run breaks.

        steadynorm.attach(model, optimizer, recovery=steadynorm.Recovery(every_steps=100, scaler=scaler))

    Args:
        every_steps: Steps between two snapshots.
        keep: Good snapshots that stay; one more is held until it is confirmed.
        confirm_steps: Steps without an alarm after which a snapshot is good. None: as many as the longest detector
            looks at.
        max_host_gib: Most memory of all ranks of a host, in GiB; beyond it, or beyond 60 % of the memory that is
            available, attach() raises.
        mode: `advise` (tell what would have been done), `act`, or `off` (no snapshots). Operators change it live.
        detectors: Conditions such as "loss > mean + 6 sigma of 200 for 3 steps"; None: DETECTORS, of which those with a
            sigma leave a loss alone that wanders, as in reinforcement learning.
        held_lr: Factor on the learning rate after a rollback, for `held_steps`.
        held_steps: Steps after a rollback with the rate held back; then it is what it was.
        max_rollbacks: Automatic rollbacks within `budget_steps`, after which the run is paused, or stopped.
        budget_steps: See `max_rollbacks`.
        when_spent: `pause`, or `stop`, which is also what happens without a server, where nobody could resume.
        scheduler: A learning rate scheduler, or several, that go back with the run. None: time moves on.
        scaler: The GradScaler. The agent follows its `step()` and `update()`, so that it sees the steps that are left
            out; the callbacks for Lightning and Hugging Face pass the trainer's.
        extra: By name, what else belongs to the run's state: modules, or anything with state_dict and load_state_dict.
        restore_rng: Whether the random number generators go back too. By default they go on, as the data do: loops
            that draw their data or dropout from them would meet the same numbers again.
    """

    every_steps: int = 100
    keep: int = 2
    confirm_steps: int | None = None
    max_host_gib: float = 64.0
    mode: RecoveryMode | str = RecoveryMode.ADVISE
    detectors: Sequence[str] | None = None
    held_lr: float = 0.5
    held_steps: int = 100
    max_rollbacks: int = 3
    budget_steps: int = 10_000
    when_spent: str = "pause"
    scheduler: Any = field(default=None, repr=False)
    scaler: Any = field(default=None, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    restore_rng: bool = False
    has_scaler: bool = field(init=False, default=False)  # ranks compare what is shown, and a scaler is not

    def __post_init__(self) -> None:
        for name, least in (
            ("every_steps", 1),
            ("keep", 1),
            ("held_steps", 0),
            ("max_rollbacks", 1),
            ("budget_steps", 1),
        ):
            _whole(name, getattr(self, name), least)
        if self.confirm_steps is not None:
            _whole("confirm_steps", self.confirm_steps, 1)
        _number("max_host_gib", self.max_host_gib, 1e6)
        _number("held_lr", self.held_lr, 1.0)
        modes = [mode.value for mode in RecoveryMode]
        if self.mode not in modes:
            raise ValueError(f"mode must be one of {', '.join(modes)}: got {self.mode!r}.")
        object.__setattr__(self, "mode", RecoveryMode(self.mode))
        object.__setattr__(self, "has_scaler", self.scaler is not None)
        if self.when_spent not in ("pause", "stop"):
            raise ValueError(f"when_spent must be pause or stop: got {self.when_spent!r}.")
        for name, value in (("scaler", self.scaler), *dict(self.extra).items()):
            if value is not None:
                _has_state(name, value)
        for scheduler in self.schedulers:
            _has_state("scheduler", scheduler)
        for condition in self.conditions():
            errors = list(condition_errors(condition))
            if errors:
                raise ValueError(f"detectors: {errors[0].message}")

    @property
    def schedulers(self) -> list[Any]:
        """The schedulers that go back with the run."""
        if self.scheduler is None:
            return []
        return list(self.scheduler) if isinstance(self.scheduler, list | tuple) else [self.scheduler]

    def conditions(self) -> list[Condition]:
        """The detectors, parsed. Raises ValueError for text that is no condition."""
        return [parse_condition(text) for text in (DETECTORS if self.detectors is None else self.detectors)]

    @property
    def confirm(self) -> int:
        """Steps without an alarm after which a snapshot is good."""
        return self.confirm_steps or max((each.span for each in self.conditions()), default=1)

    def check_schedulers(self, optimizers: Sequence[Optimizer]) -> None:
        """Raises ValueError for a scheduler of an optimizer that is not the agent's."""
        for scheduler in self.schedulers:
            driven = getattr(scheduler, "optimizer", None)
            inner = getattr(driven, "optimizer", driven)  # of a wrapper, as Accelerate's
            if driven is not None and not any(each is driven or each is inner for each in optimizers):
                raise ValueError(
                    f"scheduler must be one of an optimizer that attach() is given: got a {type(scheduler).__name__} "
                    f"of another {type(driven).__name__}. Pass this optimizer's, or none: then time moves on."
                )


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number: got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}: got {value}.")


def _number(name: str, value: object, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number: got {value!r}.")
    if not 0 < value <= most:
        raise ValueError(f"{name} must be above 0 and at most {most:g}: got {value}.")


def _has_state(name: str, value: object) -> None:
    if not (callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))):
        raise TypeError(
            f"{name} must have state_dict() and load_state_dict(): got {type(value).__name__}. Pass the object that "
            "has them, or leave it out: it then keeps its present state at a rollback."
        )
