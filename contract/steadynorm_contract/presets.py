"""Named settings: what the paper uses, and what `docs/study.md` argues for.

A change may name one in place of settings, `{"preset": "robust"}`, and is stored as what the name stands for: agents,
audit and history know settings only, and a preset that is improved later changes no run.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["PRESETS", "expand"]

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
