"""What operators do with a run as a whole: rename, archive, delete and restore it; and who did so."""

import enum
from collections.abc import Sequence

import msgspec

from steadynorm_contract.hash_chain import chained_hash

__all__ = [
    "DEFAULT_GRACE_S",
    "MAX_GRACE_S",
    "TRAINS_ON",
    "LifecycleChange",
    "Restoration",
    "RunUpdate",
    "Visibility",
    "lifecycle_words",
    "verify_lifecycle",
]

DEFAULT_GRACE_S = 3600.0
"""How long the command line and the dashboard let a deleted run be restored."""
MAX_GRACE_S = 604_800.0
"""Longest such time: a week."""
TRAINS_ON = "If it trains on, its loop does not read agent.should_stop: end its process, and soon after it is not live"


class Visibility(enum.StrEnum):
    """Where a run is listed. Lists show only `listed` runs unless others are requested."""

    LISTED = "listed"
    ARCHIVED = "archived"  # hidden and kept, until it is listed again or its agent is heard from
    DELETED = "deleted"  # hidden, and removed with its data at `RunSummary.deletes_at` unless it is restored


class RunUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of PATCH /runs/{run_id}: only what changes."""

    name: str | None = None
    """The name that is shown. Tokens that are bound to names go by the agent's own, which stays."""
    archived: bool | None = None
    reason: str = ""


class Restoration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /runs/{run_id}/restore."""

    reason: str = ""


class LifecycleChange(msgspec.Struct, frozen=True, kw_only=True):
    """One such action: who, when, and what was before and after: `name`, `archived` or `deletes_at`."""

    time: float  # Unix seconds
    actor: str  # name of the token that made the change
    reason: str
    before: dict[str, object]
    after: dict[str, object]
    hash: str = ""  # see `hash_after`; empty in entries of versions that had none
    previous: str = ""  # hash of the entry before it; empty in the first

    def hash_after(self, previous: str, run_id: str) -> str:
        """Its hash, with the name of its run, after the entry with the hash `previous`."""
        names = ("time", "actor", "reason", "before", "after")
        return chained_hash(previous, {"run_id": run_id, "lifecycle": {name: getattr(self, name) for name in names}})


def verify_lifecycle(run_id: str, changes: Sequence[LifecycleChange], *, whole: bool = False) -> bool:
    """Whether the hashes of a run's changes, newest first, hold.

    Before the first entry with a hash there may be some of versions that had none, which no `previous` names.

    whole: the oldest is the run's first. Else it may follow one that is no longer stored.
    """
    older: str | None = "" if whole else None  # hash of the entry before; None: it is not stored
    for change in reversed(changes):
        chained = change.hash or change.previous or older
        if chained and change.hash != change.hash_after(change.previous, run_id):
            return False
        if older is not None and change.previous != older:
            return False
        older = change.hash
    return True


def lifecycle_words(change: LifecycleChange) -> str:
    """What was done, for people: `renamed a → b`, `archived`, `listed again`, `deleted`, `restored`."""
    words = []
    if "name" in change.after:
        words.append(f"renamed {change.before.get('name')} → {change.after['name']}")
    if "archived" in change.after:
        words.append("archived" if change.after["archived"] else "listed again")
    if "deletes_at" in change.after:
        words.append("deleted" if change.after["deletes_at"] else "restored")
    return ", ".join(words)
