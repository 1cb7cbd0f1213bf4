"""Scalars that a training loop logs under names of its own: `agent.log(**{"eval/loss": 2.1})`.

They travel beside the built-in ones, in groups of records with the same names, so that a name that is logged once in a
thousand steps costs nothing in between. In a record NaN means that a name was not logged, and an infinity that it
was, as NaN or infinite.
"""

from __future__ import annotations

import struct
from typing import Annotated

import msgspec

from steadynorm_contract.signals import DERIVED, PARAMETER_SIGNALS, SCALARS, Signal

__all__ = [
    "MAX_SCALARS",
    "MAX_SCALAR_GROUPS",
    "MAX_SCALAR_NAME_LENGTH",
    "MAX_SCALAR_RECORDS",
    "MAX_SENTENCE_LENGTH",
    "MAX_UNIT_LENGTH",
    "NONFINITE_PREFIX",
    "ScalarDescription",
    "ScalarRecords",
    "ScalarView",
    "logged_signal",
    "name_problem",
]

MAX_SCALARS = 256
"""Names of one run."""
MAX_SCALAR_NAME_LENGTH = 100
MAX_UNIT_LENGTH = 40
MAX_SENTENCE_LENGTH = 300
MAX_SCALAR_GROUPS = 256
"""Of one batch."""
MAX_SCALAR_RECORDS = 4096
"""Of all groups of one batch."""

NONFINITE_PREFIX = "nonfinite/"
"""`nonfinite/NAME` is the series of a scalar that was ever logged as NaN or infinite: 1 in those steps, else 0."""

_BUILT_IN = {each.name for each in (*SCALARS, *PARAMETER_SIGNALS, *DERIVED)} | {"step", "time", "batch_id"}
_PREFIXES = (NONFINITE_PREFIX, *(f"{each.name}/" for each in PARAMETER_SIGNALS))


def name_problem(name: object) -> str | None:
    """Why `name` cannot be that of a logged scalar: the rule, the value and what to do. None: it can."""
    if not isinstance(name, str):
        return f"a scalar's name must be a string: got {type(name).__name__}."
    shown = ascii(name if len(name) <= 60 else name[:57] + "...")
    if not 1 <= len(name) <= MAX_SCALAR_NAME_LENGTH or name != name.strip() or not name.isprintable():
        return (
            f"a scalar's name must be 1 to {MAX_SCALAR_NAME_LENGTH} printable characters, with none of them a space "
            f'at its ends: got {shown}. Such as "eval/loss".'
        )
    if name in _BUILT_IN:
        return f'a scalar must not have a built-in name: got {shown}. Choose another, such as "my/{name}".'
    if name.startswith(_PREFIXES):
        return f"a scalar's name must not begin like a series of parameters: got {shown}. Choose another."
    return None


Names = Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_SCALARS)]


class ScalarRecords(msgspec.Struct, frozen=True):
    """Records with the same names. `data` is float32 [len(steps), len(names)]; see above for its NaN and infinities."""

    names: Names
    steps: Annotated[list[int], msgspec.Meta(max_length=100_000)]
    times: bytes  # little-endian float64 Unix seconds, one a record
    data: bytes

    def __post_init__(self) -> None:
        for what, got, expected in (
            ("logged data", len(self.data), 4 * len(self.steps) * len(self.names)),
            ("logged times", len(self.times), 8 * len(self.steps)),
        ):
            if got != expected:
                raise ValueError(f"{what}: expected {expected} bytes for the stated steps and names, got {got}")

    def time_values(self) -> tuple[float, ...]:
        """Unix seconds, one a record."""
        return struct.unpack(f"<{len(self.steps)}d", self.times)


class ScalarDescription(msgspec.Struct, frozen=True):
    """What `agent.describe()` says of a scalar."""

    unit: str = ""
    sentence: str = ""


class ScalarView(msgspec.Struct, frozen=True, kw_only=True):
    """One logged scalar of a run. `value` is its newest, null before one and where it was not finite."""

    name: str
    unit: str = ""
    sentence: str = ""
    value: float | None = None
    step: int | None = None  # of that value
    nonfinite: int = 0  # records in which it was NaN or infinite


def logged_signal(name: str, unit: str = "", sentence: str = "") -> Signal:
    """A logged scalar, or its `nonfinite/NAME`, as an entry of the catalogue of signals."""
    if name.startswith(NONFINITE_PREFIX):
        of = name.removeprefix(NONFINITE_PREFIX)
        return Signal(
            name=name, title=name, unit="records", description=f"1 where {of} was NaN or infinite, else 0.",
            subtitle="NaN or infinite",
        )  # fmt: skip
    return Signal(
        name=name, title=name, unit=unit or "as logged", subtitle=unit,
        description=sentence or "As the training loop logged it.",
    )  # fmt: skip
