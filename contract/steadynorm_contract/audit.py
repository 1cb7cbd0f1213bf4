"""The audit list as a chain: each entry carries a hash of itself and of the entry before it.

    hash = sha256(previous hash + canonical JSON of the entry), in hexadecimal digits

The canonical JSON is that of `run_id`, `revision`, `time`, `actor`, `reason`, `before` and `after`: keys sorted, no
spaces, ASCII only. What came of an entry is not in it: that is the agent's word, and comes later. Whoever keeps the
newest hash somewhere else can prove from an export that nothing before it was changed, left out or put in between;
nobody needs to trust the server or its store for that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import msgspec

from steadynorm_contract.runs import RevisionState
from steadynorm_contract.settings import Settings

__all__ = ["AuditChain", "AuditEntry", "AuditList", "entry_hash", "revert_to", "verify"]


_ACTIONS = ("reset_generation", "checkpoint_generation")
"""What was done stays done: a counter only grows."""


def revert_to(revision: int, now: Settings, entries: Sequence[AuditEntry]) -> dict[str, object] | None:
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


def entry_hash(
    previous: str,
    *,
    run_id: str,
    revision: int,
    time: float,
    actor: str,
    reason: str,
    before: Mapping[str, object],
    after: Mapping[str, object],
) -> str:
    """The hash of an entry that comes after the one with the hash `previous`, empty for the first."""
    entry = {
        "run_id": run_id,
        "revision": revision,
        "time": time,
        "actor": actor,
        "reason": reason,
        "before": before,
        "after": after,
    }
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256((previous + canonical).encode("ascii")).hexdigest()


def verify(run_id: str, entries: Sequence[AuditEntry]) -> AuditChain:
    """Whether `entries`, newest first and without gaps, are a chain. The oldest may follow on one that was dropped.

    Entries from before there were hashes may stand at the beginning; after a hash each entry has one.
    """
    head, begun = "", False
    for entry in reversed(entries):
        if not entry.hash and not begun:
            continue
        expected = entry_hash(
            entry.previous,
            run_id=run_id,
            revision=entry.revision,
            time=entry.time,
            actor=entry.actor,
            reason=entry.reason,
            before=entry.before,
            after=entry.after,
        )
        if entry.hash != expected or (begun and entry.previous != head):
            return AuditChain(verified=False, head=head, broken_at=entry.revision)
        head, begun = entry.hash, True
    return AuditChain(verified=True, head=head)


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change of settings: who, when, before and after, why, and what came of it."""

    revision: int
    time: float  # Unix seconds
    actor: str  # name of the token that made the change
    reason: str
    before: dict[str, object]  # only the fields that changed
    after: dict[str, object]
    state: RevisionState
    applied_step: int | None = None
    applied_time: float | None = None  # Unix seconds, by the agent's clock
    rejection: str = ""
    hash: str = ""  # see `chain`; empty in entries from before there were hashes
    previous: str = ""  # hash of the entry before; empty in the first


class AuditChain(msgspec.Struct, frozen=True):
    """Whether the entries are what was written. `head`: hash of the newest good one; kept elsewhere, it is proof."""

    verified: bool
    head: str = ""
    broken_at: int | None = None  # revision of the first entry that is not what was written; null: one is missing


class AuditList(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/audit, newest first."""

    entries: list[AuditEntry]
    chain: AuditChain | None = None  # of the first page
    next: str | None = None  # cursor of older entries; null: there are none
