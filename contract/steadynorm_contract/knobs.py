"""Numbers of the training loop's own that operators turn while it trains: `agent.knob("entropy_coef", 0.01, ...)`.

A run's knobs are declared by its agent as it registers. Each is a setting under the name `knob.NAME`; `Settings.knobs`
holds the values of all of them.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections.abc import Collection, Mapping, Sequence

import msgspec

from steadynorm_contract.setting_checks import number

__all__ = [
    "ALL_KNOBS",
    "KNOB_PREFIX",
    "MAX_KNOBS",
    "MAX_KNOB_NAME_LENGTH",
    "Knob",
    "KnobKind",
    "is_allowed",
    "is_knob",
    "knob_name_problem",
    "near_names",
]

MAX_KNOBS = 64
"""Of one run."""
MAX_KNOB_NAME_LENGTH = 64
KNOB_PREFIX = "knob."
ALL_KNOBS = "knob.*"
"""In `allow`: every knob of the run."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NAME_RULE = (
    f"must be 1 to {MAX_KNOB_NAME_LENGTH} of the characters A-Z a-z 0-9 _ . / -, the first of them a letter or _"
)


class KnobKind(enum.StrEnum):
    """What a knob's value is."""

    NUMBER = "number"
    INTEGER = "integer"


class Knob(msgspec.Struct, frozen=True, kw_only=True):
    """A knob as the agent declares it.

    Attributes:
        name: Without the prefix `knob.`.
        default: Its value where nobody turned it. Of an optimizer's own option: its value as it was declared.
        low: The least value that is allowed.
        high: The greatest value that is allowed.
        kind: Whether values are whole numbers.
        own: Whether it is an optimizer's option. It may be null, which leaves the option as the program has it.
        unit: For people.
        sentence: What it does, for people.
    """

    name: str
    default: float
    low: float
    high: float
    kind: KnobKind = KnobKind.NUMBER
    own: bool = False
    unit: str = ""
    sentence: str = ""

    @property
    def setting(self) -> str:
        """Its name among the settings."""
        return KNOB_PREFIX + self.name

    @property
    def initial(self) -> float | None:
        """The value that it begins with: null leaves an optimizer's option as the program has it."""
        return None if self.own else self.default

    @property
    def rule(self) -> str:
        """Which values it takes, in words."""
        number = "a whole number " if self.kind is KnobKind.INTEGER else ""
        return f"must be {number}in [{self.low:.12g}, {self.high:.12g}]{' or off' if self.own else ''}"

    def accepts(self, value: object) -> bool:
        """Whether it may have this value."""
        if value is None:
            return self.own
        if (given := number(value)) is None:
            return False
        return (self.kind is KnobKind.NUMBER or given.is_integer()) and self.low <= given <= self.high

    def problem(self) -> str | None:
        """Why it cannot be declared like this: the rule, the value and what to do. None: it can."""
        if (problem := knob_name_problem(self.name)) is not None:
            return problem
        named = f"knob {self.name}"
        for what, value in (("low", self.low), ("high", self.high), ("default", self.default)):
            if not math.isfinite(value) or abs(value) > 1e300:
                return f"{named}: {what} must be a finite number: got {value}."
            if self.kind is KnobKind.INTEGER and (value != int(value) or abs(value) > 2**53):
                return f"{named}: {what} must be a whole number of at most 2**53: got {value}."
        if self.low >= self.high:
            return f"{named}: low must be less than high: got low={self.low:.12g} and high={self.high:.12g}."
        if not self.low <= self.default <= self.high:
            return (
                f"{named}: its default must be in [{self.low:.12g}, {self.high:.12g}]: got {self.default:.12g}. "
                "Widen the range."
            )
        return None


def knob_name_problem(name: object) -> str | None:
    """Why `name`, without its prefix, cannot be that of a knob: the rule, the value and what to do. None: it can."""
    if not isinstance(name, str):
        return f"a knob's name must be a string: got {type(name).__name__}."
    if len(name) <= MAX_KNOB_NAME_LENGTH and _NAME.fullmatch(name):
        return None
    shown = ascii(name if len(name) <= 60 else name[:57] + "...")
    return f'a knob\'s name {_NAME_RULE}: got {shown}. Such as "entropy_coef".'


def is_knob(setting: object) -> bool:
    """Whether a setting of this name is a knob, declared or not."""
    return isinstance(setting, str) and setting.startswith(KNOB_PREFIX)


def is_allowed(setting: str, allow: Collection[str] | None) -> bool:
    """Whether an agent with this `allow` lets operators change `setting`. None: all."""
    return allow is None or setting in allow or (is_knob(setting) and ALL_KNOBS in allow)


def near_names(name: str, known: Sequence[str] | Mapping[str, object]) -> list[str]:
    """Up to three of the known names, those most like `name` first."""
    return difflib.get_close_matches(name[:200], list(known), n=3, cutoff=0.5)
