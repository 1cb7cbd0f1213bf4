"""What makes a value of a setting invalid: each check returns None, or what to do instead."""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Callable

__all__ = [
    "boolean",
    "choice",
    "clip_norm",
    "counter",
    "decay",
    "detail_every",
    "eps",
    "lr",
    "lr_scale",
    "number",
    "shown",
    "spike_limit",
    "step",
]


def number(value: object) -> float | None:
    """`value` as a finite float, or None. Booleans are not numbers here: `gamma1=True` is a mistake, not 1.0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def decay(value: object) -> str | None:
    found = number(value)
    if found is not None and 0.0 <= found < 1.0:
        if struct.unpack("<f", struct.pack("<f", found))[0] < 1.0:
            return None
        return "In float32, where the statistics live, this value is 1. Use at most 0.9999999."
    if found is not None and found >= 1.0:
        return "For a longer memory use 0.9999."
    return "Use a decay such as 0.6 or 0.999; 0 keeps only the newest step."


def eps(value: object) -> str | None:
    found = number(value)
    if found is not None and 0.0 < found <= 1e-3:
        return None
    return "Leave it at 1e-12 unless the gradients themselves are that small."


def spike_limit(value: object) -> str | None:
    if value is None:
        return None
    found = number(value)
    if found is not None and found > 1.0 and found <= 3e38:
        return None
    return "Use off for the paper's rule, or a ratio such as 3 or 10."


def clip_norm(value: object) -> str | None:
    found = number(value)
    if value == "auto" or (found is not None and 0.0 < found <= 3e38):
        return None
    return "Use a number such as 1, or auto for a limit from recent norms."


def lr_scale(value: object) -> str | None:
    found = number(value)
    return None if found is not None and 0.0 <= found <= 10.0 else "Use 1 for the optimizer's own rate."


def lr(value: object) -> str | None:
    if value is None:
        return None
    found = number(value)
    return None if found is not None and 0.0 <= found <= 1e6 else "Use off for the program's own rate."


def detail_every(value: object) -> str | None:
    valid = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1000
    return None if valid else "Use 10, or 1 for rows of every step."


def boolean(value: object) -> str | None:
    return None if isinstance(value, bool) else "Use true or false."


def counter(value: object) -> str | None:
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return None if valid else "Add 1 to the present value to run the action once."


def step(value: object) -> str | None:
    return None if value is None or counter(value) is None else "Use the step of a snapshot that is kept, or off."


def choice(choices: type[enum.StrEnum]) -> Callable[[object], str | None]:
    names = [choice.value for choice in choices]
    return lambda value: None if isinstance(value, str) and value in names else f"Use one of {', '.join(names)}."


def shown(value: object) -> str:
    """An invalid value, as an error shows it."""
    if value is None:
        return "null"
    try:
        text = repr(value)
    except ValueError:  # Python does not print integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
