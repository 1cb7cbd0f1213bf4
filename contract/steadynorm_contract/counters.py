"""Changes that are meant for whatever the settings are at another moment, or in another run."""

from __future__ import annotations

import re
from collections.abc import Mapping

from steadynorm_contract.settings import Settings

__all__ = ["COUNTERS", "is_more", "resolve"]

COUNTERS = ("reset_generation", "checkpoint_generation")
_MORE = re.compile(r"\+[0-9]{1,9}")


def is_more(value: object) -> bool:
    """Whether a counter's value is such as "+1"."""
    return isinstance(value, str) and _MORE.fullmatch(value) is not None


def resolve(settings: Mapping[str, object], present: Settings) -> dict[str, object]:
    """`settings` with counters such as "+1" added to the present ones."""
    resolved = dict(settings)
    for name in COUNTERS:
        value = settings.get(name)
        if isinstance(value, str) and is_more(value):
            resolved[name] = int(getattr(present, name)) + int(value[1:])
    return resolved
