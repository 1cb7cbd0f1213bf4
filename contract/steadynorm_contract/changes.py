"""Named settings: what the paper uses, and what `docs/study.md` argues for.

A change may name one in place of settings, `{"preset": "robust"}`, and is stored as what the name stands for: agents,
audit and history know settings only, and a preset that is improved later changes no run.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

__all__ = ["PRESETS", "Change", "expand", "parse_assignments"]


def parse_assignments(typed: str) -> dict[str, object]:
    """NAME=VALUE, between them spaces or commas. Values are JSON where they parse as such, else words; `+1` stays.

    Names and limits are the server's to check. Raises ValueError for what is no change.
    """
    changes: dict[str, object] = {}
    for one in typed.replace(",", " ").split():
        name, equals, value = one.partition("=")
        if not name or not equals or not value:
            raise ValueError(f"a change must be NAME=VALUE: got {one!r}. Such as gamma2=0.99 or mode=observe.")
        if name in changes:
            raise ValueError(f"{name} is given twice. Say it once.")
        try:
            changes[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            changes[name] = value
    if not changes:
        raise ValueError("a change must name at least one setting: got none. Such as gamma2=0.99.")
    return changes


PRESETS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "paper": MappingProxyType({"gamma1": 0.6, "gamma2": 0.999, "spike_limit": None}),
        "robust": MappingProxyType({"gamma1": 0.6, "gamma2": 0.999, "spike_limit": 3.0}),
    }
)
"""By name: the settings that it stands for. What it does not name stays as it is."""


def expand(settings: Mapping[str, object]) -> dict[str, object]:
    """`settings` with what a preset stands for in place of its name; settings beside it win.

    A name that is not known stays, for `merge` to refuse.
    """
    named = settings.get("preset")
    if not isinstance(named, str) or named not in PRESETS:
        return dict(settings)
    return {**PRESETS[named], **{name: value for name, value in settings.items() if name != "preset"}}


class Change(msgspec.Struct, frozen=True):
    """Body of PATCH /runs/{run_id}/settings: only what changes, by name or as a `preset` of several, and why."""

    settings: dict[str, object]
    reason: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "settings", expand(self.settings))
