"""Retention: what one run may take in the store and how long it is kept, where that is not the server's default."""

from __future__ import annotations

import msgspec

__all__ = ["Retention", "RetentionChange", "RetentionLimits", "RetentionUpdate"]


class RetentionLimits(msgspec.Struct, frozen=True):
    """max_mib: MiB that a run may take in the store. keep_days: it is removed after so many days of silence.

    Null means the server's default where a run's own values are told, and "for ever" (keep_days only) where those are
    that are in force.
    """

    max_mib: float | None = None
    keep_days: float | None = None


class RetentionUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of PUT /runs/{run_id}/retention: both values, null or absent for the server's default.

    revision: of the retention that this replaces; null: whatever it is.
    """

    max_mib: float | None = None
    keep_days: float | None = None
    reason: str = ""
    revision: int | None = None


class RetentionChange(msgspec.Struct, frozen=True):
    """Who changed a run's retention, when (Unix seconds), and why."""

    time: float
    actor: str
    reason: str
    before: RetentionLimits
    after: RetentionLimits


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """GET /runs/{run_id}/retention."""

    revision: int  # grows with each change; 0: there was none
    own: RetentionLimits  # what was set for this run; null: the server's default holds
    in_force: RetentionLimits  # what holds for it now
    ceiling_mib: float  # no run may take more than this, whatever is set for it
    store_bytes: int  # what it takes now
    expires: float | None  # Unix seconds at which it is removed unless it is heard of; null: never, as things stand
    changes: list[RetentionChange]  # the last ones, newest first
