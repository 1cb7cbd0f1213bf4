"""Knobs in the training process: their declaration, the values that the loop reads, and options of optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from steadynorm_contract.codec import encodable
from steadynorm_contract.knobs import Knob, KnobKind, knob_name_problem
from steadynorm_contract.scalars import MAX_SENTENCE_LENGTH, MAX_UNIT_LENGTH

RANGES = {
    "weight_decay": (0.0, 1.0),
    "momentum": (0.0, 1.0),
    "dampening": (0.0, 1.0),
    "betas": (0.0, 0.99999),
    "alpha": (0.0, 1.0),
    "rho": (0.0, 1.0),
    "eps": (1e-16, 1.0),
}
"""Of options of optimizers, where the call gives none."""


class LiveKnob:
    """A knob's value, changed between two steps. Reading `value` takes no lock.

    Attributes:
        name: Without `knob.`.
        set_to: As `value`, for the agent's own use.
        is_read: Whether `value` was read since this was last set to False.
    """

    __slots__ = ("is_read", "name", "set_to")

    def __init__(self, name: str, value: float | None) -> None:
        self.name = name
        self.set_to: Any = value
        self.is_read = False

    @property
    def value(self) -> Any:
        """The value in force: a float, or an int where it was declared so.

        None: an optimizer's option is as the program has it.
        """
        self.is_read = True
        return self.set_to

    def __float__(self) -> float:
        return float(self.value)

    def __repr__(self) -> str:
        return f"<knob {self.name}={self.set_to}>"


def turn(live: LiveKnob, knob: Knob, value: float | None) -> None:
    """Put a value in force."""
    live.set_to = int(value) if value is not None and knob.kind is KnobKind.INTEGER else value


def declare(
    name: str, default: object, low: object, high: object, *, integer: bool, unit: str, sentence: str, own: bool = False
) -> Knob:
    """A declaration, checked. Raises TypeError or ValueError, which says what to do."""
    if (problem := knob_name_problem(name)) is not None:
        raise ValueError(problem)
    numbers = [_number(name, what, value) for what, value in (("default", default), ("low", low), ("high", high))]
    for what, text, most in (("unit", unit, MAX_UNIT_LENGTH), ("sentence", sentence, MAX_SENTENCE_LENGTH)):
        if not isinstance(text, str):
            raise TypeError(f"knob {name}: {what} must be a string: got {type(text).__name__}.")
        if len(text) > most:
            raise ValueError(f"knob {name}: {what} must be at most {most} characters: got {len(text)}.")
    knob = Knob(
        name=name,
        default=numbers[0],
        low=numbers[1],
        high=numbers[2],
        kind=KnobKind.INTEGER if integer else KnobKind.NUMBER,
        own=own,
        unit=encodable(unit),
        sentence=encodable(sentence),
    )
    if (problem := knob.problem()) is not None:
        raise ValueError(problem)
    return knob


def _number(name: str, what: str, value: object) -> float:
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        return float(value)  # type: ignore[arg-type]  # numpy's scalars and the like: float() knows
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"knob {name}: {what} must be a number: got {type(value).__name__}. Use float().") from None


class OptimizerOption:
    """An option of an optimizer's parameter groups, such as weight_decay, whose value knobs replace during a step.

    It is replaced in the groups that have the same value as the first group with any but zero: what the program
    excepts, such as norms from weight decay, stays excepted.
    """

    def __init__(self, optimizer: Optimizer, option: str) -> None:
        groups = optimizer.param_groups
        values = [group.get(option) for group in groups]
        kind = type(optimizer).__name__
        if not any(_is_option(value) for value in values):
            found = values[0] if values else None
            known = sorted(name for name, value in groups[0].items() if name != "lr" and _is_option(value))
            raise ValueError(
                f"{option} must be an option of {kind} that is a number or a tuple of numbers: got {found!r:.60}. "
                f"It has {', '.join(known) or 'none'}."
            )
        self.option = option
        self._place = next((at for at, value in enumerate(values) if _is_option(value) and _parts(value)[0]), 0)
        if not _is_option(values[self._place]):
            self._place = next(at for at, value in enumerate(values) if _is_option(value))
        self.defaults = _parts(values[self._place])
        self.names = _names(option, values[self._place])
        self.lives: list[LiveKnob] = []

    @property
    def is_set(self) -> bool:
        """Whether a knob replaces it."""
        return any(live.set_to is not None for live in self.lives)

    def put(self, groups: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], str, Any, Any]]:
        """Replace it. Returns group, option, the value before and the one in its place."""
        if not self.is_set or self._place >= len(groups):
            return []
        option, reference = self.option, groups[self._place].get(self.option)
        if not _is_option(reference) or len(_parts(reference)) != len(self.lives):
            return []
        chosen = [
            own if live.set_to is None else live.set_to for live, own in zip(self.lives, _parts(reference), strict=True)
        ]
        new = type(reference)(chosen) if isinstance(reference, tuple | list) else chosen[0]
        replaced = []
        for group in groups:
            own = group.get(option)
            if _is_option(own) and own == reference:
                group[option] = new
                replaced.append((group, option, own, new))
        return replaced


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_option(value: object) -> bool:
    """Numbers in host memory only: to compare tensors of a device would wait for it."""
    return _is_number(value) or (type(value) in (tuple, list) and bool(value) and all(map(_is_number, value)))  # type: ignore[call-overload]


def _parts(value: Any) -> list[float]:
    return list(value) if isinstance(value, tuple | list) else [value]


def _names(option: str, value: object) -> list[str]:
    """`betas` is beta1 and beta2; another tuple's parts are numbered from 1."""
    if not isinstance(value, tuple | list):
        return [option]
    return [f"beta{at}" if option == "betas" else f"{option}_{at}" for at in range(1, len(value) + 1)]
