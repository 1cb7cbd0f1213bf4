"""Changes as a person types them, on the command line and in the dashboard: `gamma2=0.99 reset_generation=+1`."""

from __future__ import annotations

import msgspec

__all__ = ["typed_changes"]


def typed_changes(typed: str) -> dict[str, object]:
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
