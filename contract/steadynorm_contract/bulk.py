"""Changing many runs at once: which ones, what a change would do to each of them, and what it did."""

from __future__ import annotations

import enum

import msgspec

from steadynorm_contract.changes import expand

__all__ = ["MAX_SELECTED", "Bulk", "BulkOutcome", "BulkResponse", "BulkRow", "Selection"]

MAX_SELECTED = 1000
"""Runs of one bulk change."""


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which runs: those that match all that is given. At least one of the three is needed; name "*" is every run."""

    name: str | None = None  # a pattern of the run's name, such as gpt-*; * ? [a-c] as in a shell, case counts
    tags: dict[str, str] = {}  # all of these, as the agent registered them
    run_ids: list[str] | None = None


class Bulk(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /settings/bulk.

    settings: only what changes; a counter may be "+1", for one more than each run has; `preset` as in `Change`.
    dry_run: true asks what would happen. To do it, send the `revisions` that this answered.
    """

    select: Selection
    settings: dict[str, object]
    reason: str = ""
    dry_run: bool = True
    revisions: dict[str, int] | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "settings", expand(self.settings))


class BulkOutcome(enum.StrEnum):
    """What becomes, or would become, of one run."""

    CHANGE = "change"  # it would change
    CHANGED = "changed"
    UNCHANGED = "unchanged"  # it has these settings already
    ENDED = "ended"  # nobody is there to apply a change
    REJECTED = "rejected"  # its agent does not take these settings, or a counter would shrink
    CONFLICT = "conflict"  # somebody changed it since the preview, or it was not in it
    NOT_FOUND = "not_found"  # deleted since the preview
    UNKNOWN = "unknown"  # the store did not answer: it may be changed, or change when the store is back


class BulkRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a bulk change."""

    run_id: str
    name: str
    outcome: BulkOutcome
    revision: int | None = None  # the newest one: the change's own where it was made
    before: dict[str, object] = {}  # only the fields that change
    after: dict[str, object] = {}
    why: str = ""  # nothing changes


class BulkResponse(msgspec.Struct, frozen=True):
    """Answer to POST /settings/bulk, in the order of GET /runs. `revisions`: to send back, of the runs to change."""

    dry_run: bool
    runs: list[BulkRow]
    revisions: dict[str, int]
