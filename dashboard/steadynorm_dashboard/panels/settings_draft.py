"""A change of settings being prepared: what differs from the settings it started from, and whether that is allowed.

Pure: `controls` shows a draft and sends it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from steadynorm_contract.rule import spike_ceiling
from steadynorm_contract.settings import SettingsError, merge
from steadynorm_contract.telemetry import Desired

__all__ = ["DECAYS", "FIELDS", "Draft", "ceiling", "nearest_stop", "rebased"]

FIELDS = ("mode", "gamma1", "gamma2", "spike_limit", "eps", "lr_scale", "transfer")
"""The settings on the panel, in its order."""

DECAYS = (
    *(0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998),
    *(0.999, 0.9995, 0.9998, 0.9999, 0.99995, 0.99999),
)
"""Sensible decays, even on a scale of memory length: what a slider offers. Any other valid value can be typed."""


@dataclass(slots=True)
class Draft:
    """One visitor's draft for one run. `base` is what it started from; `values` what the panel holds now."""

    base: Desired
    values: dict[str, object]
    refused: dict[str, tuple[object, str]] = field(
        default_factory=dict
    )  # by field: a value, and why the server refused it

    @classmethod
    def of(cls, base: Desired) -> Draft:
        """A draft that changes nothing yet."""
        return cls(base, {name: getattr(base.settings, name) for name in FIELDS})

    def changes(self) -> dict[str, object]:
        """Only what differs from the base, as it is sent."""
        return {name: value for name, value in self.values.items() if value != getattr(self.base.settings, name)}

    def errors(self) -> dict[str, str]:
        """By field, each broken rule and what to do. The server's word counts until the value is another one."""
        refused = {name: why for name, (value, why) in self.refused.items() if self.values.get(name) == value}
        try:
            merge(self.base.settings, self.changes())
        except SettingsError as error:
            return {one.field: one.message for one in error.errors} | refused
        return refused


def ceiling(values: Mapping[str, object]) -> float | None:
    """The spike ceiling under these gammas; None while one of them is not a decay."""
    gamma1, gamma2 = values.get("gamma1"), values.get("gamma2")
    if not isinstance(gamma1, int | float) or not isinstance(gamma2, int | float):
        return None
    if not (0 <= gamma1 < 1 and 0 <= gamma2 < 1):
        return None
    return spike_ceiling(gamma1, gamma2)


def nearest_stop(decay: float | None) -> float:
    """The slider's stop nearest to `decay` by memory length; the last one for what is no decay."""
    if decay is None or not 0 <= decay < 1:
        return DECAYS[-1]
    return min(DECAYS, key=lambda stop: abs(math.log((1 - stop) / (1 - decay))))


def rebased(draft: Draft, base: Desired) -> tuple[Draft, dict[str, tuple[object, object]]]:
    """The draft on newer settings, and what somebody else changed in the meantime, by field: before, after.

    What the visitor edited stays as edited, the rest follows the new settings: nothing is lost and nothing undone.
    """
    edited = draft.changes()
    before = msgspec.structs.asdict(draft.base.settings)
    after = msgspec.structs.asdict(base.settings)
    theirs = {name: (before[name], after[name]) for name in after if before[name] != after[name]}
    return Draft(base, {name: edited.get(name, after[name]) for name in FIELDS}), theirs
