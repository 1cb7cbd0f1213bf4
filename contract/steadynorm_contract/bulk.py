"""Bulk settings change: a selection of runs, a preview, and the outcome for each run."""

import enum

import msgspec

from steadynorm_contract.changes import Change

__all__ = ["MAX_SELECTED", "Bulk", "BulkOutcome", "BulkResponse", "BulkRow", "Selection"]

MAX_SELECTED = 1000
"""Most runs of one bulk change."""


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The runs that match all given criteria. At least one is required; name "*" selects every run."""

    name: str | None = None  # a shell pattern of the run's name, such as gpt-*; case-sensitive
    tags: dict[str, str] = {}  # all of these, as the agent registered them
    run_ids: list[str] | None = None


class Bulk(Change, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /settings/bulk.

    settings: as in `Change`; counters may be increments such as "+1", resolved per run.
    dry_run: true returns a preview. To make the change, send the preview's `revisions` with dry_run false.
    """

    select: Selection
    dry_run: bool = True
    revisions: dict[str, int] | None = None


class BulkOutcome(enum.StrEnum):
    """Outcome for one run, or the expected one in a preview."""

    CHANGE = "change"  # it would change
    CHANGED = "changed"
    UNCHANGED = "unchanged"  # it has these settings already
    ENDED = "ended"  # the run has ended
    REJECTED = "rejected"  # its agent does not allow these settings, or a counter would be lowered
    CONFLICT = "conflict"  # changed since the preview, or not part of it
    NOT_FOUND = "not_found"  # deleted since the preview
    UNKNOWN = "unknown"  # Redis did not answer: the change may have been made, or be made later


class BulkRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a bulk change."""

    run_id: str
    name: str
    outcome: BulkOutcome
    revision: int | None = None  # the newest one: the change's own where it was made
    before: dict[str, object] = {}  # only the fields that change
    after: dict[str, object] = {}
    why: str = ""  # the reason why nothing changes


class BulkResponse(msgspec.Struct, frozen=True):
    """Response of POST /settings/bulk, in the order of GET /runs. `revisions`: of the runs to change, to send back."""

    dry_run: bool
    runs: list[BulkRow]
    revisions: dict[str, int]
