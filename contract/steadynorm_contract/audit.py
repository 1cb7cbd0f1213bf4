"""The audit list of a run's settings: its entries, the chain of hashes over them, and the way back.

    hash = sha256(previous hash + canonical JSON of the entry), in hexadecimal digits

The canonical JSON is that of `run_id`, `revision`, `time`, `actor`, `reason`, `before` and `after`: keys sorted, no
spaces, ASCII only. The outcome of an entry is not part of it: the agent reports that later. With the newest hash stored
elsewhere, an export proves that nothing before it was changed, removed or inserted, without trust in the server or its
Redis.
"""

from collections.abc import Sequence

import msgspec

from steadynorm_contract.hash_chain import chained_hash
from steadynorm_contract.lifecycle import LifecycleChange
from steadynorm_contract.runs import RevisionState
from steadynorm_contract.settings import COUNTERS, Settings, by_name

__all__ = [
    "AuditChain",
    "AuditEntry",
    "AuditList",
    "SettingsChange",
    "chained_hash",
    "entry_hash",
    "revert_to",
    "verify",
]


class SettingsChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change of settings: who, when, before and after, and why. These fields, and the run's id, are hashed."""

    revision: int
    time: float  # Unix seconds
    actor: str  # name of the token that made the change
    reason: str
    before: dict[str, object]  # only the fields that changed
    after: dict[str, object]


class AuditEntry(SettingsChange, frozen=True, kw_only=True):
    """A change, its outcome, and its place in the chain of hashes."""

    state: RevisionState
    applied_step: int | None = None
    applied_time: float | None = None  # Unix seconds, by the agent's clock
    rejection: str = ""
    remark: str = ""  # what the agent says of a change that it applied, such as what it left out of it
    hash: str = ""  # see `entry_hash`; empty in entries of versions that had none
    previous: str = ""  # hash of the entry before it; empty in the first


class AuditChain(msgspec.Struct, frozen=True):
    """Whether the hashes verify. `head`: hash of the newest verified entry; stored elsewhere, it is proof."""

    verified: bool
    head: str = ""
    broken_at: int | None = None  # revision of the first entry that does not verify; null: none, or one is missing


class AuditList(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/audit, newest first."""

    entries: list[AuditEntry]
    chain: AuditChain | None = None  # of the first page, if its verification was requested
    next: str | None = None  # cursor of older entries; null: there are none
    lifecycle: list[LifecycleChange] = []  # with the first page: who renamed, archived, deleted or restored the run


def entry_hash(previous: str, run_id: str, change: SettingsChange) -> str:
    """The hash of a change's entry. previous: the hash of the entry before it; empty for the first."""
    return chained_hash(
        previous, {"run_id": run_id} | {name: getattr(change, name) for name in SettingsChange.__struct_fields__}
    )


def verify(run_id: str, entries: Sequence[AuditEntry], *, whole: bool = False) -> AuditChain:
    """Recompute the hashes of `entries`, newest first and without gaps.

    Entries without a hash, written by versions that had none, may only come before the first one with a hash, which
    then names none as its previous.

    whole: the oldest is the run's first. Else it may follow an entry that was trimmed, or is on another page.
    """
    head, begun, unhashed = "", False, None
    for entry in reversed(entries):
        if not entry.hash and not begun:
            unhashed = entry.revision
            continue
        if not begun and entry.previous and (whole or unhashed is not None):
            return AuditChain(verified=False, broken_at=unhashed)
        if entry.hash != entry_hash(entry.previous, run_id, entry) or (begun and entry.previous != head):
            return AuditChain(verified=False, head=head, broken_at=entry.revision)
        head, begun = entry.hash, True
    return AuditChain(verified=True, head=head)


def revert_to(revision: int, now: Settings, entries: Sequence[AuditEntry]) -> dict[str, object] | None:
    """The change that restores the settings of an earlier revision. Counters stay: an action cannot be undone.

    Args:
        revision: The revision to go back to; 0 is as registered.
        now: The desired settings.
        entries: Changes, newest first.

    Returns:
        Only what changes; None where `entries` do not reach back to `revision`.
    """
    later = [entry for entry in entries if entry.revision > revision]
    if len({entry.revision for entry in later}) != max((entry.revision for entry in entries), default=0) - revision:
        return None
    present = by_name(now)
    then = dict(present)
    for entry in sorted(later, key=lambda entry: -entry.revision):
        then |= entry.before
    return {name: then[name] for name in present if name not in COUNTERS and then[name] != present[name]}
