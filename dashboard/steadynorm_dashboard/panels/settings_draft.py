"""A draft of a settings change: what differs from the settings it is based on, and whether the values are valid.

Pure: `settings` shows a draft and sends it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from steadynorm_contract.rule import spike_ceiling
from steadynorm_contract.settings import SettingsError, merge
from steadynorm_contract.telemetry import Desired

FIELDS = ("mode", "gamma1", "gamma2", "spike_limit", "eps", "lr_scale", "transfer")
"""The settings on the panel, in order."""

DECAYS = (
    *(0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998),
    *(0.999, 0.9995, 0.9998, 0.9999, 0.99995, 0.99999),
)
"""The stops of the decay sliders, evenly spaced by half-life. Any other valid value can be typed."""


@dataclass(slots=True)
class Draft:
    """One visitor's draft for one run: the settings it is based on, and the values in the panel."""

    base: Desired
    values: dict[str, object]
    rejected: dict[str, tuple[object, str]] = field(default_factory=dict)
    """By field: a value, and why the server rejected it."""

    @classmethod
    def of(cls, base: Desired) -> Draft:
        """A draft without edits."""
        return cls(base, {name: getattr(base.settings, name) for name in FIELDS})

    def changes(self) -> dict[str, object]:
        """The edited settings, as they are sent."""
        return {name: value for name, value in self.values.items() if value != getattr(self.base.settings, name)}

    def errors(self) -> dict[str, str]:
        """By field, the rule it breaks and what to do. An error from the server persists until the value changes."""
        rejected = {name: why for name, (value, why) in self.rejected.items() if self.values.get(name) == value}
        try:
            merge(self.base.settings, self.changes())
        except SettingsError as error:
            return {one.field: one.message for one in error.errors} | rejected
        return rejected


def ceiling(values: Mapping[str, object]) -> float | None:
    """The spike ceiling under these gammas; None while one of them is not a decay."""
    gamma1, gamma2 = values.get("gamma1"), values.get("gamma2")
    if not isinstance(gamma1, int | float) or not isinstance(gamma2, int | float):
        return None
    if not (0 <= gamma1 < 1 and 0 <= gamma2 < 1):
        return None
    return spike_ceiling(gamma1, gamma2)


def nearest_stop(decay: float | None) -> float:
    """The slider stop nearest to `decay` by half-life; the last one if the decay is not valid."""
    if decay is None or not 0 <= decay < 1:
        return DECAYS[-1]
    return min(DECAYS, key=lambda stop: abs(math.log((1 - stop) / (1 - decay))))


def rebased(draft: Draft, base: Desired) -> tuple[Draft, dict[str, tuple[object, object]]]:
    """The draft based on newer settings, and what others changed meanwhile, by field: before, after.

    Edited settings keep the visitor's values, the others get the new ones: no edit is lost and no change reverted.
    """
    edited = draft.changes()
    before = msgspec.structs.asdict(draft.base.settings)
    after = msgspec.structs.asdict(base.settings)
    theirs = {name: (before[name], after[name]) for name in after if before[name] != after[name]}
    return Draft(base, {name: edited.get(name, after[name]) for name in FIELDS}), theirs
