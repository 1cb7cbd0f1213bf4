"""`steadynorm set`: changes a run's settings while it trains, and waits until the job reports the step."""

import time
from collections.abc import Mapping
from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands import output
from steadynorm_cli.commands.foretell import foretell
from steadynorm_cli.commands.options import AsJson, Changes, NoWait, Reason, Run, Server, Wait, find_run
from steadynorm_cli.commands.outcome import CONFLICT, confirmed
from steadynorm_cli.errors import CommandError
from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.changes import parse_assignments
from steadynorm_contract.client import Client, Conflict
from steadynorm_contract.runs import RevisionState, RunSummary
from steadynorm_contract.settings import by_name, resolve_increments

REJECTED = 4
"""Exit code: the job rejected the change."""
NOT_YET = 5
"""Exit code: the change is stored, and was not applied within --wait."""
_POLL_S = 0.2
_POLLED = 20  # entries of the audit list: the change is among the newest


def set_(
    run: Run,
    changes: Changes,
    reason: Reason = "",
    wait: Wait = 30.0,
    no_wait: NoWait = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing: show what would follow from now on.")
    ] = False,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Change settings of a running job. Exit codes: 3 conflict, 4 rejected by it, 5 not applied in time, 7 unknown."""
    parsed = parse_changes(changes)
    client = Client(server)
    found = find_run(client, run)
    resolved = resolve_increments(parsed, found.desired.settings)
    if dry_run:
        if not found.state.is_live:
            raise CommandError(
                f"run {found.run_id} has ended ({found.state}): no change of its settings would do anything."
            )
        foretell(client, found.run_id, resolved, as_json=as_json)
        return
    send(client, found, resolved, reason=reason, wait=None if no_wait else wait, as_json=as_json)


def send(
    client: Client, run: RunSummary, changes: Mapping[str, object], *, reason: str, wait: float | None, as_json: bool
) -> None:
    """Change the settings of `run` on condition that its desired revision is the newest; wait and print the outcome.

    wait: seconds; None: do not wait. Raises CommandError with one of the exit codes above, ClientError.
    """
    present = run.desired
    try:
        desired = confirmed(lambda: client.change(run.run_id, changes, revision=present.revision, reason=reason))
    except Conflict as error:
        raise CommandError(
            f"the settings of {run.run_id} were changed concurrently, so nothing was changed. See them with "
            f"`steadynorm show {run.run_id}`, then try again. The server: {error}",
            CONFLICT,
        ) from None
    record = {
        "run_id": run.run_id, "revision": desired.revision, "state": "unchanged", "applied_step": None,
        "settings": desired.settings,
    }  # fmt: skip
    if desired.revision == present.revision:
        unchanged = f"{run.run_id} has these settings already, at revision {present.revision}: nothing to do"
        typer.echo(msgspec.json.encode(record) if as_json else unchanged)
        return
    if not as_json:
        before, after = by_name(present.settings), by_name(desired.settings)
        changed = {name: value for name, value in after.items() if value != before.get(name)}  # as in the audit list
        typer.echo(f"{run.run_id}: revision {desired.revision}: {output.change(before, changed)}")
    if wait and not run.connected:
        output.tell(
            f"the run is disconnected: its agent was last heard from {output.ago(run.last_seen)} ago. Waiting up to "
            f"{wait:g} s for it; the job applies the change {_when(run)}. Ctrl-C ends the wait alone."
        )
    try:
        entry = None if wait is None else _await_outcome(client, run.run_id, desired.revision, wait)
    except KeyboardInterrupt:
        output.tell(
            f"revision {desired.revision} is stored, and the job applies it {_when(run)}. See it with "
            f"`steadynorm show {run.run_id}`, or take it back with `steadynorm undo {run.run_id}`."
        )
        raise
    if as_json:
        outcome: dict[str, object] = {"state": "pending"}
        if entry:
            outcome = {"state": entry.state, "applied_step": entry.applied_step, "remark": entry.remark}
        typer.echo(msgspec.json.encode(record | outcome))
    conclusion = _conclude(run, desired.revision, entry, waited=wait)
    if not as_json:
        typer.echo(conclusion)


def parse_changes(texts: list[str]) -> dict[str, object]:
    """NAME=VALUE arguments as a change; increments such as `+1` stay. Raises CommandError."""
    try:
        return parse_assignments(" ".join(texts))
    except ValueError as error:
        raise CommandError(str(error), 2) from None


def changes_since(client: Client, run_id: str, revision: int, page: int) -> list[AuditEntry]:
    """The changes later than `revision`, newest first, read in pages of so many."""
    found: list[AuditEntry] = []
    cursor: str | None = None
    while True:
        answer = client.audit(run_id, limit=page, cursor=cursor)
        later = [entry for entry in answer.entries if entry.revision > revision]
        found += later
        if answer.next is None or len(later) < len(answer.entries):
            return found
        cursor = answer.next


def _await_outcome(client: Client, run_id: str, revision: int, wait_s: float) -> AuditEntry | None:
    """The audit entry of `revision` once it is applied, rejected or superseded. None: not in time."""
    deadline = time.monotonic() + wait_s
    while True:
        for entry in changes_since(client, run_id, revision - 1, _POLLED):
            if entry.revision == revision and entry.state is not RevisionState.PENDING:
                return entry
        if time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_S)


def _when(run: RunSummary) -> str:
    return "at its next step" if run.connected else "when it reaches the server again, or is resumed"


def _conclude(run: RunSummary, revision: int, entry: AuditEntry | None, waited: float | None) -> str:
    if entry is None and waited is not None:
        raise CommandError(
            f"revision {revision} is stored, but the job did not apply it within {waited:g} s. It applies it "
            f"{_when(run)}: see `steadynorm show {run.run_id}`, or take it back with `steadynorm undo {run.run_id}`.",
            NOT_YET,
        )
    if entry is None:
        return "pending"
    if entry.state is RevisionState.REJECTED:
        raise CommandError(f"the job rejected revision {revision}: {entry.rejection or 'no reason given'}", REJECTED)
    if entry.state is RevisionState.SUPERSEDED:
        return f"revision {revision} was superseded by a later one before the job applied it"
    return f"applied at step {entry.applied_step}{f'. {entry.remark}' if entry.remark else ''}"
