"""What a token with the role `proposer` may change by itself: which settings, within which values, how often a day.

{"settings": {"gamma2": {"min": 0.9, "max": 0.9999}, "mode": {"among": ["observe"]}}, "changes_a_day": 5}
"""

from collections.abc import Mapping
from math import isfinite
from typing import Annotated

import msgspec

from steadynorm_contract.changes import expand


class Values(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Values of one setting: those of `among`, and numbers from `min` to `max`, where both are given."""

    min: float | None = None
    max: float | None = None
    among: tuple[bool | float | str | None, ...] = ()

    def __post_init__(self) -> None:
        if (self.min is None) != (self.max is None) or (not self.among and self.min is None):
            raise ValueError("a setting's budget must have min and max, or among")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"a setting's budget must have min of at most max: got {self.min:g} and {self.max:g}")

    def allow(self, value: object) -> bool:
        """Whether it is one of them."""
        if any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in self.among):
            return True
        number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        return number and self.min is not None and self.max is not None and self.min <= float(value) <= self.max  # type: ignore[arg-type] # a number


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Changes that need no approval. A change fits if all of its settings do."""

    settings: dict[str, Values]
    changes_a_day: Annotated[int, msgspec.Meta(ge=1, le=10_000)]

    def __post_init__(self) -> None:
        # `off` as people write it is null in a change.
        read = {
            name: msgspec.structs.replace(values, among=tuple(expand({name: each})[name] for each in values.among))
            for name, values in self.settings.items()
        }
        msgspec.structs.force_setattr(self, "settings", read)

    def allows(self, settings: Mapping[str, object]) -> bool:
        """Whether a change of these settings fits, however often it was made."""
        return bool(settings) and all(
            name in self.settings and self.settings[name].allow(value) for name, value in settings.items()
        )
