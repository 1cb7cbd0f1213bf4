"""What came of a write that got no answer. It is read from the server's state, once that answers again.

    try:
        client.change(run_id, {"gamma2": 0.99}, revision=3)
    except OutcomeUnknown as unknown:
        found = unknown.settle()       # None: the server still does not answer
        found.made, found.text         # True, "your change was made as r4"

Each function here reads the state once, and raises ClientError where the state does not tell. What the write was based
on tells whether it was made: a change of settings on revision 3 is revision 4 or was never made.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from steadynorm_contract.audit import AuditEntry, AuditList
from steadynorm_contract.bulk import Bulk, BulkOutcome, BulkResponse, BulkRow
from steadynorm_contract.changes import expand
from steadynorm_contract.client_errors import ClientError, Finding, NotFound
from steadynorm_contract.lifecycle import RunUpdate
from steadynorm_contract.notes import NewNote, NoteList
from steadynorm_contract.proposals import NewProposal, ProposalList, ProposalState
from steadynorm_contract.retention import Retention, RetentionLimits, RetentionUpdate
from steadynorm_contract.runs import RunDetail
from steadynorm_contract.schedules import NewSchedule, ScheduleList, ScheduleState
from steadynorm_contract.settings import Settings, by_name, is_increment, merge
from steadynorm_contract.telemetry import Desired
from steadynorm_contract.tokens import TokenInfo
from steadynorm_contract.watch_rules import RuleList, WatchRule
from steadynorm_contract.words import counted

__all__ = [
    "Reader",
    "bulk_change",
    "deletion",
    "note_added",
    "proposal_decided",
    "proposal_made",
    "restoration",
    "retention_change",
    "rules_change",
    "run_update",
    "schedule_cancelled",
    "schedule_made",
    "settings_change",
]


_CLOCKS_DIFFER_S = 300.0


class Reader(Protocol):
    """The reads of a `Client`."""

    def me(self) -> TokenInfo: ...
    def run(self, run_id: str) -> RunDetail: ...
    def settings(self, run_id: str) -> Desired: ...
    def audit(self, run_id: str) -> AuditList: ...
    def schedules(self, run_id: str) -> ScheduleList: ...
    def proposals(self, run_id: str) -> ProposalList: ...
    def rules(self, run_id: str) -> RuleList: ...
    def retention(self, run_id: str) -> Retention: ...
    def notes(self, run_id: str) -> NoteList: ...


def settings_change(client: Reader, run_id: str, changes: Mapping[str, object], revision: int, reason: str) -> Finding:
    """Of a change of settings on the condition that `revision` is the newest."""
    now = client.settings(run_id)
    wanted = msgspec.to_builtins(expand(changes))
    if now.revision == revision:
        present = by_name(now.settings)
        if all(name in present and present[name] == value for name, value in wanted.items()):
            return Finding(True, f"{run_id} had these settings already, at r{revision}", result=now)
        return Finding(False, f"your change was not made: {run_id} is still at r{revision}", final=False)
    entries = [each for each in client.audit(run_id).entries if each.revision <= now.revision]
    mine = next((each for each in entries if each.revision == revision + 1), None)
    if mine is None:
        raise ClientError(f"the audit list of {run_id} does not reach back to r{revision + 1}: was it your change?")
    if mine.reason != reason or not _is_of(mine, wanted) or mine.actor != client.me().name:
        return Finding(False, f"your change was not made: {mine.actor} changed the settings first, as r{mine.revision}")
    then = by_name(now.settings)
    for each in entries:
        if each.revision > mine.revision:
            then |= each.before
    made = Desired(mine.revision, merge(Settings(), then))
    return Finding(True, f"your change was made as r{mine.revision}", result=made)


def _is_of(entry: AuditEntry, wanted: Mapping[str, object]) -> bool:
    """Whether an entry is of this change; an entry holds only what it changed."""
    return all(
        name in wanted and (wanted[name] == value or is_increment(wanted[name])) for name, value in entry.after.items()
    )


def schedule_made(client: Reader, run_id: str, new: NewSchedule, sent: float) -> Finding:
    """Of a new schedule. sent: as in `note_added`."""
    wanted = (client.me().name, new.from_step, new.reason, new.settings)
    for each in client.schedules(run_id).schedules:
        same = (each.created_by, each.from_step, each.reason, each.settings) == wanted
        if same and each.created_at > sent - _CLOCKS_DIFFER_S:
            return Finding(True, f"your schedule was made: {each.id}", result=each)
    return Finding(False, f"your schedule was not made: {run_id} has none of that step and change", final=False)


def schedule_cancelled(client: Reader, run_id: str, schedule_id: str) -> Finding:
    """Of a schedule's removal."""
    known = next((each for each in client.schedules(run_id).schedules if each.id == schedule_id), None)
    if known is None:
        return Finding(True, f"schedule {schedule_id} was removed")
    if known.state is not ScheduleState.WAITING:
        return Finding(False, f"schedule {schedule_id} was not removed: it was carried out before ({known.state})")
    return Finding(False, f"schedule {schedule_id} was not removed: it still waits", final=False)


def proposal_made(client: Reader, run_id: str, new: NewProposal, sent: float) -> Finding:
    """Of a new proposal. sent: as in `note_added`."""
    wanted = (client.me().name, new.revision, new.reason, new.settings)
    for each in client.proposals(run_id).proposals:
        same = (each.proposed_by, each.revision, each.reason, each.settings) == wanted
        if same and each.proposed_at > sent - _CLOCKS_DIFFER_S:
            return Finding(True, f"your proposal is stored: {each.id}, {each.state}", result=each)
    return Finding(False, f"your proposal is not stored: {run_id} has none of that revision and change", final=False)


def proposal_decided(client: Reader, run_id: str, proposal_id: str, *, approve: bool) -> Finding:
    """Of a decision."""
    known = next((each for each in client.proposals(run_id).proposals if each.id == proposal_id), None)
    if known is None:
        return Finding(False, f"proposal {proposal_id} is not stored any more")
    if known.state is ProposalState.OPEN:
        return Finding(False, f"proposal {proposal_id} is not decided: it is still open", final=False)
    text = f"proposal {proposal_id} is {known.state}, by {known.decided_by}"
    wanted = ProposalState.APPROVED if approve else ProposalState.REFUSED
    if known.state is not wanted or known.decided_by != client.me().name:
        return Finding(False, f"your decision was not made: {text}")
    return Finding(True, text, result=known)


def rules_change(client: Reader, run_id: str, rules: Sequence[WatchRule], revision: int | None) -> Finding:
    """Of a replacement of a run's rules."""
    now = client.rules(run_id)
    if [each.rule for each in now.rules] == list(rules):
        return Finding(True, f"your rules were saved: {run_id} has them, at revision {now.revision}", result=now)
    if revision is None or now.revision == revision:
        text = f"your rules were not saved: those of {run_id} are still at revision {now.revision}"
        return Finding(False, text, final=False)
    return Finding(False, f"the rules of {run_id} are others than yours now, at revision {now.revision}")


def retention_change(client: Reader, run_id: str, update: RetentionUpdate) -> Finding:
    """Of a change of a run's retention."""
    now = client.retention(run_id)
    wanted = RetentionLimits(update.max_mib, update.keep_days)
    mine = (wanted, update.reason, client.me().name)
    # The newest first: on a revision, it is the change right after it.
    changes = [
        each
        for at, each in enumerate(now.changes)
        if update.revision is None or now.revision - at == update.revision + 1
    ]
    if now.own == wanted or any((each.after, each.reason, each.actor) == mine for each in changes):
        return Finding(True, f"your limits were set: {run_id} has them, at revision {now.revision}", result=now)
    if update.revision is None or now.revision == update.revision:
        text = f"your limits were not set: those of {run_id} are still at revision {now.revision}"
        return Finding(False, text, final=False)
    return Finding(False, f"the limits of {run_id} were changed by another request first, at revision {now.revision}")


def note_added(client: Reader, run_id: str, new: NewNote, sent: float) -> Finding:
    """Of a note. sent: Unix seconds by this machine's clock, which may differ from the server's by some minutes."""
    wanted = (client.me().name, new.text.strip(), new.event, new.action, new.to.strip())
    for each in client.notes(run_id).notes:
        same = (each.author, each.text, each.event, each.action, each.to) == wanted
        if same and (new.step in (None, each.step)) and each.time > sent - _CLOCKS_DIFFER_S:
            return Finding(True, "your note was stored", result=each)
    return Finding(False, f"your note was not stored: {run_id} has none with this text", final=False)


def run_update(client: Reader, run_id: str, update: RunUpdate) -> Finding:
    """Of a new name, or of archiving."""
    now = client.run(run_id)
    if update.name in (None, now.name) and update.archived in (None, now.archived is not None):
        return Finding(True, f"{run_id} is as you want it: {_described(update)}", result=now)
    return Finding(False, f"{run_id} was not changed: {_described(update)}", final=False)


def _described(update: RunUpdate) -> str:
    words = [] if update.name is None else [f"named {update.name}"]
    if update.archived is not None:
        words.append("archived" if update.archived else "listed")
    return ", ".join(words)


def deletion(client: Reader, run_id: str, *, at_once: bool = False) -> Finding:
    """Of a run's deletion, at once or with a grace period."""
    try:
        if client.run(run_id).deletes_at is not None and not at_once:
            return Finding(True, f"{run_id} was deleted, and can be restored")
    except NotFound:
        return Finding(True, f"{run_id} was deleted")
    return Finding(False, f"{run_id} was not deleted", final=False)


def restoration(client: Reader, run_id: str) -> Finding:
    """Of the restoration of a deleted run."""
    now = client.run(run_id)
    if now.deletes_at is None:
        return Finding(True, f"{run_id} was restored", result=now)
    return Finding(False, f"{run_id} was not restored", final=False)


def bulk_change(client: Reader, bulk: Bulk) -> Finding:
    """Of a bulk change, run by run. Its result has a row for each run; `change`: it was not made."""
    rows: list[BulkRow] = []
    for run_id, revision in (bulk.revisions or {}).items():
        try:
            found = settings_change(client, run_id, bulk.settings, revision, bulk.reason)
        except NotFound as gone:
            rows.append(BulkRow(run_id=run_id, name="", outcome=BulkOutcome.NOT_FOUND, why=str(gone)))
            continue
        outcome = BulkOutcome.CONFLICT if found.final else BulkOutcome.CHANGE
        at: int | None = None
        if found.made:
            at = found.result.revision
            outcome = BulkOutcome.UNCHANGED if at == revision else BulkOutcome.CHANGED
        rows.append(BulkRow(run_id=run_id, name="", outcome=outcome, revision=at, why=found.text))
    made = sum(row.outcome in (BulkOutcome.CHANGED, BulkOutcome.UNCHANGED) for row in rows)
    open_ = any(row.outcome is BulkOutcome.CHANGE for row in rows)
    text = f"{made} of {counted(len(rows), 'run was', 'runs were')} changed"
    return Finding(made == len(rows), text, final=not open_, result=BulkResponse(False, rows, {}))
