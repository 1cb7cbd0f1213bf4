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

from steadynorm_contract.views import AuditChain, AuditEntry

__all__ = ["link", "verify"]


def link(
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
        expected = link(
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
