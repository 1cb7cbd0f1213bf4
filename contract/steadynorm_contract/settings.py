"""A run's settings: what can be changed while it trains, and within which limits.

    Settings()                                  the paper's rule with its defaults
    Settings(gamma2=0.99, mode="observe")       validated at once; SettingsError says which field and why
    merge(settings, {"gamma2": 0.99})           a change as an operator sends it: only what changes
    merge(settings, {"preset": "robust"})       several settings by the name of a preset, see `changes`

The server validates every change and the agent validates it again, both with this module, so an invalid value reaches
neither Redis nor the optimizer.
"""

from __future__ import annotations

import enum
import math
import re
import struct
from collections.abc import Callable, Mapping

import msgspec

from steadynorm_contract.changes import PRESETS, expand

__all__ = [
    "COUNTERS",
    "SETTING_RULES",
    "FieldError",
    "Mode",
    "Settings",
    "SettingsError",
    "Transfer",
    "is_increment",
    "merge",
    "resolve_increments",
]


class Mode(enum.StrEnum):
    """What the stabilizer does with a gradient."""

    OFF = "off"
    """Nothing is measured; the gradient is multiplied by the gain of the last mode change (1 if there was none)."""
    OBSERVE = "observe"
    """Norms are measured and recorded; the gradient passes as in `off`."""
    STABILIZE = "stabilize"
    """The gradient keeps its direction; its magnitude is replaced."""


class Transfer(enum.StrEnum):
    """What happens to the gradient's scale when the mode is switched."""

    BUMPLESS = "bumpless"
    """The output scale is carried over, so the update size does not jump."""
    PLAIN = "plain"
    """The paper's bare rule: unit and gain stay 1."""


class FieldError(msgspec.Struct, frozen=True):
    """One invalid setting."""

    field: str
    rule: str
    message: str


class SettingsError(ValueError):
    """One or more settings are invalid. `errors` names each field, its rule and what to do."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("; ".join(error.message for error in errors))
        self.errors = errors


def _number(value: object) -> float | None:
    """`value` as a finite float, or None. Booleans are not numbers here: `gamma1=True` is a mistake, not 1.0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _decay(value: object) -> str | None:
    number = _number(value)
    if number is not None and 0.0 <= number < 1.0:
        if struct.unpack("<f", struct.pack("<f", number))[0] < 1.0:
            return None
        return "In float32, where the statistics live, this value is 1. Use at most 0.9999999."
    if number is not None and number >= 1.0:
        return "For a longer memory use 0.9999."
    return "Use a decay such as 0.6 or 0.999; 0 keeps only the newest step."


def _eps(value: object) -> str | None:
    number = _number(value)
    if number is not None and 0.0 < number <= 1e-3:
        return None
    return "Leave it at 1e-12 unless the gradients themselves are that small."


def _spike_limit(value: object) -> str | None:
    if value is None:
        return None
    number = _number(value)
    if number is not None and number > 1.0 and number <= 3e38:
        return None
    return "Use null for the paper's rule, or a ratio such as 3 or 10."


def _lr_scale(value: object) -> str | None:
    number = _number(value)
    return None if number is not None and 0.0 <= number <= 10.0 else "Use 1 for the optimizer's own rate."


def _boolean(value: object) -> str | None:
    return None if isinstance(value, bool) else "Use true or false."


def _counter(value: object) -> str | None:
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return None if valid else "Add 1 to the present value to run the action once."


def _choice(choices: type[enum.StrEnum]) -> Callable[[object], str | None]:
    names = [choice.value for choice in choices]
    return lambda value: None if isinstance(value, str) and value in names else f"Use one of {', '.join(names)}."


SETTING_RULES: dict[str, tuple[str, Callable[[object], str | None]]] = {
    "mode": ("must be off, observe or stabilize", _choice(Mode)),
    "gamma1": ("must be in [0, 1)", _decay),
    "gamma2": ("must be in [0, 1)", _decay),
    "eps": ("must be in (0, 0.001]", _eps),
    "spike_limit": ("must be null or greater than 1", _spike_limit),
    "transfer": ("must be bumpless or plain", _choice(Transfer)),
    "lr_scale": ("must be in [0, 10]", _lr_scale),
    "paused": ("must be true or false", _boolean),
    "stop": ("must be true or false", _boolean),
    "reset_generation": ("must be a whole number that only grows", _counter),
    "checkpoint_generation": ("must be a whole number that only grows", _counter),
}
"""Per setting: its rule in words, and a check that returns None or what to do instead."""

COUNTERS = ("reset_generation", "checkpoint_generation")
"""Settings that count actions. Raising one runs its action once, and none is ever lowered."""

_INCREMENT = re.compile(r"\+[0-9]{1,9}")


def _problem(field: str, value: object) -> FieldError | None:
    rule, check = SETTING_RULES[field]
    advice = check(value)
    if advice is None:
        return None
    return FieldError(field, rule, f"{field} {rule}: got {_shown(value)}. {advice}")


def _shown(value: object) -> str:
    if value is None:
        return "null"
    try:
        text = repr(value)
    except ValueError:  # Python does not print integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a run, validated on construction.

    Attributes:
        mode: `off`, `observe` or `stabilize`, see `Mode`.
        gamma1: Decay per step of the moving average of the norm, in [0, 1).
        gamma2: Decay per step of the moving average of the squared norm, in [0, 1).
        eps: Added to the RMS norm before dividing by it, in the unit of the gradient; in (0, 1e-3].
        spike_limit: A norm above this multiple of the RMS norm enters the statistics clipped to it; above 1.
            None: never.
        transfer: What happens to the gradient's scale when the mode changes, see `Transfer`.
        lr_scale: Factor on every parameter group's learning rate during a step, in [0, 10].
        paused: Whether the run waits at the next step boundary.
        stop: Whether the training loop is asked to end (`agent.should_stop`).
        reset_generation: Counter: raising it resets the statistics once.
        checkpoint_generation: Counter: raising it requests one checkpoint.

    Raises:
        SettingsError: A value is invalid.
    """

    mode: Mode = Mode.STABILIZE
    gamma1: float = 0.6
    gamma2: float = 0.999
    eps: float = 1e-12
    spike_limit: float | None = None
    transfer: Transfer = Transfer.BUMPLESS
    lr_scale: float = 1.0
    paused: bool = False
    stop: bool = False
    reset_generation: int = 0
    checkpoint_generation: int = 0

    def __post_init__(self) -> None:
        errors = [error for name in SETTING_RULES if (error := _problem(name, getattr(self, name))) is not None]
        if errors:
            raise SettingsError(errors)
        # `Settings(mode="observe")` is what people write; the fields hold the enumeration's members.
        msgspec.structs.force_setattr(self, "mode", Mode(self.mode))
        msgspec.structs.force_setattr(self, "transfer", Transfer(self.transfer))


def merge(settings: Settings, changes: Mapping[str, object]) -> Settings:
    """`settings` with `changes` applied.

    Args:
        settings: The present settings.
        changes: Only what changes, by name; `preset` stands for the settings of that preset.

    Returns:
        The new settings.

    Raises:
        SettingsError: A name is unknown, a value is invalid, or a counter would be lowered. It names every such field.
    """
    changes = expand(changes)
    errors: list[FieldError] = []
    for name, value in changes.items():
        if name not in SETTING_RULES:
            if name == "preset":
                rule = f"must be {' or '.join(PRESETS)}"
                errors.append(FieldError(name, rule, f"{name} {rule}: got {_shown(value)}."))
                continue
            known = ", ".join(SETTING_RULES)
            errors.append(FieldError(str(name), "must be a known setting", f"{name} is not a setting. Known: {known}."))
        elif (error := _problem(name, value)) is not None:
            errors.append(error)
        elif name in COUNTERS and isinstance(value, int) and value < getattr(settings, name):
            rule, _ = SETTING_RULES[name]
            message = (
                f"{name} {rule}: got {value}, it is {getattr(settings, name)} already. Add 1 to run the action once."
            )
            errors.append(FieldError(name, rule, message))
    if errors:
        raise SettingsError(errors)
    return msgspec.structs.replace(settings, **changes)


def is_increment(value: object) -> bool:
    """Whether a value is an increment of a counter, such as "+1"."""
    return isinstance(value, str) and _INCREMENT.fullmatch(value) is not None


def resolve_increments(changes: Mapping[str, object], present: Settings) -> dict[str, object]:
    """`changes` with increments such as "+1" replaced by the counters that they lead to.

    Args:
        changes: Settings by name.
        present: The settings that the counters are taken from.
    """
    resolved = dict(changes)
    for name in COUNTERS:
        value = changes.get(name)
        if isinstance(value, str) and is_increment(value):
            resolved[name] = int(getattr(present, name)) + int(value[1:])
    return resolved
