"""Back to the settings of an earlier revision: what to change, read from the list of changes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from steadynorm_contract.settings import Settings
from steadynorm_contract.views import AuditEntry

__all__ = ["back_to"]

_ACTIONS = ("reset_generation", "checkpoint_generation")
"""What was done stays done: a counter only grows."""


def back_to(revision: int, now: Settings, entries: Sequence[AuditEntry]) -> dict[str, object] | None:
    """What to change so that the settings are those of `revision` again; None where the list does not reach it.

    entries: all changes, newest first. Their `before` are taken back one by one.
    """
    later = [entry for entry in entries if entry.revision > revision]
    if len({entry.revision for entry in later}) != max((entry.revision for entry in entries), default=0) - revision:
        return None
    then = msgspec.to_builtins(now)
    for entry in sorted(later, key=lambda entry: -entry.revision):
        then |= entry.before
    present = msgspec.to_builtins(now)
    return {name: then[name] for name in present if name not in _ACTIONS and then[name] != present[name]}
