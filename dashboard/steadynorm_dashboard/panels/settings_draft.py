"""A draft of a settings change: what differs from the settings it is based on, and whether the values are valid.

Pure: `settings` shows a draft and sends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steadynorm_contract.knobs import Knob
from steadynorm_contract.rule import spike_ceiling
from steadynorm_contract.settings import SettingsError, by_name, merge
from steadynorm_contract.telemetry import Desired

FIELDS = ("mode", "gamma1", "gamma2", "spike_limit", "spike_fade", "eps", "lr_scale", "transfer", "clip_norm")
"""The settings on the panel of every run, in order."""

LATER_FIELDS = ("lr", "detail_every")
"""Those of runs whose agents have them."""

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
    knobs: Sequence[Knob] | None = None
    """That the run declares; None: its agent has none of LATER_FIELDS either."""

    @classmethod
    def of(cls, base: Desired, knobs: Sequence[Knob] | None = None) -> Draft:
        """A draft without edits."""
        made = cls(base, {}, knobs=knobs)
        made.values = {name: value for name, value in by_name(base.settings).items() if name in made.fields}
        return made

    @property
    def fields(self) -> tuple[str, ...]:
        """The settings on the panel, in order."""
        if self.knobs is None:
            return FIELDS
        return (*FIELDS, *LATER_FIELDS, *(knob.setting for knob in self.knobs))

    def otherwise(self, name: str) -> float | None:
        """What a setting that may be off is when it is switched on; None: it has no switch."""
        if name == "lr":
            return 1e-3
        return next((knob.default for knob in self.knobs or () if knob.own and knob.setting == name), None)

    def changes(self) -> dict[str, object]:
        """The edited settings, as they are sent."""
        now = by_name(self.base.settings)
        return {name: value for name, value in self.values.items() if value != now.get(name, value)}

    def errors(self) -> dict[str, str]:
        """By field, the rule it breaks and what to do. An error from the server persists until the value changes."""
        rejected = {name: why for name, (value, why) in self.rejected.items() if self.values.get(name) == value}
        try:
            merge(self.base.settings, self.changes(), self.knobs or [])
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


def slider_stops(decay: float | None) -> tuple[float, ...]:
    """The stops of a slider that shows `decay`: the usual ones, and this very value."""
    return tuple(sorted({*DECAYS, slider_value(decay)}))


def slider_value(decay: float | None) -> float:
    """The value that the slider shows: `decay`; the last stop if that is not valid."""
    return DECAYS[-1] if decay is None or not 0 <= decay < 1 else decay


def rebased(draft: Draft, base: Desired) -> tuple[Draft, dict[str, tuple[object, object]]]:
    """The draft based on newer settings, and what others changed meanwhile, by field: before, after.

    Edited settings keep the visitor's values, the others get the new ones: no edit is lost and no change reverted.
    """
    edited = draft.changes()
    before, after = by_name(draft.base.settings), by_name(base.settings)
    theirs = {name: (before[name], after[name]) for name in after if name in before and before[name] != after[name]}
    values = {name: edited.get(name, after[name]) for name in draft.fields if name in after}
    return Draft(base, values, knobs=draft.knobs), theirs
