"""Retention: how much of Redis one run may use and how long it is stored, where it differs from the defaults."""

import msgspec

__all__ = ["Retention", "RetentionChange", "RetentionLimits", "RetentionUpdate"]


class RetentionLimits(msgspec.Struct, frozen=True):
    """max_mib: MiB of Redis that a run may use. keep_days: it is removed after so many days without activity.

    Null means the server's default in a run's own limits, and "for ever" (keep_days only) in the limits in force.
    """

    max_mib: float | None = None
    keep_days: float | None = None


class RetentionUpdate(RetentionLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of PUT /runs/{run_id}/retention: both values, null or absent for the server's default.

    revision: of the retention that this replaces; null: unconditional.
    """

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
    own: RetentionLimits  # as set for this run; null: the server's default applies
    effective: RetentionLimits  # as they apply now
    ceiling_mib: float  # no run may use more, whatever its own limit
    redis_bytes: int  # what it uses now
    expires: float | None  # Unix seconds at which it is removed unless active before; null: never
    changes: list[RetentionChange]  # the last ones, newest first
