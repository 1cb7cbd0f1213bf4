"""`steadynorm set`: change a run's settings while it trains, and wait until the job says at which step it did."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.options import AsJson, Run, Server, find_run
from steadynorm_cli.errors import CommandError
from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.changes import parse_assignments
from steadynorm_contract.client import Client, Conflict
from steadynorm_contract.runs import RevisionState, RunSummary
from steadynorm_contract.settings import Settings, resolve_increments
from steadynorm_contract.telemetry import Desired

__all__ = ["CONFLICT", "NOT_YET", "REJECTED", "await_outcome", "parse_changes", "parse_unresolved", "send", "set_"]

CONFLICT = 3
"""Exit code: somebody else changed the settings in between."""
REJECTED = 4
"""Exit code: the job refused the change."""
NOT_YET = 5
"""Exit code: the change is stored, and was not applied within --wait."""

ChangeNotifier = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME=VALUE...",
        help="Such as gamma2=0.99 spike_limit=null preset=robust reset_generation=+1",
    ),
]


def set_(
    run: Run,
    changes: ChangeNotifier,
    reason: Annotated[str, typer.Option(help="Why; it stands in the run's audit list.")] = "",
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until the job applied it.")] = 30.0,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait.")] = False,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Change settings of a run that trains. Exit codes: 3 conflict, 4 rejected by the job, 5 not applied in time."""
    client = Client(server)
    summary = find_run(client, run)
    present = client.settings(summary.run_id)
    parsed = parse_changes(changes, present.settings)
    send(client, summary, present, parsed, reason=reason, wait=None if no_wait else wait, as_json=as_json)


def send(
    client: Client,
    summary: RunSummary,
    present: Desired,
    changes: Mapping[str, object],
    *,
    reason: str,
    wait: float | None,
    as_json: bool,
) -> None:
    """Change a run's settings on condition that `present` are still its newest, wait and say what came of it.

    wait: seconds; None: not at all. Raises CommandError with one of the exit codes above, ClientError.
    """
    try:
        desired = client.change(summary.run_id, changes, revision=present.revision, reason=reason)
    except Conflict as error:
        raise CommandError(
            f"somebody else changed the settings of {summary.run_id} in this moment, so nothing was done. "
            f"Look at them with `steadynorm show {summary.run_id}` and decide again. The server says: {error}",
            CONFLICT,
        ) from None
    if desired.revision == present.revision:
        if as_json:
            typer.echo(msgspec.json.encode(_record(summary, desired.revision, desired.settings, None, "unchanged")))
        else:
            typer.echo(f"{summary.run_id} has these settings already, at revision {present.revision}: nothing to do")
        return
    if not as_json:
        typer.echo(f"{summary.run_id}: revision {desired.revision}: {_summary(present.settings, changes)}")
    entry = None if wait is None else await_outcome(client, summary.run_id, desired.revision, wait)
    if as_json:
        typer.echo(msgspec.json.encode(_record(summary, desired.revision, desired.settings, entry)))
    conclusion = _conclude(summary, desired.revision, entry, waited=wait)
    if not as_json:
        typer.echo(conclusion)


def parse_changes(texts: list[str], present: Settings) -> dict[str, object]:
    """NAME=VALUE texts as a change of `present`. Raises CommandError for what is no change."""
    return resolve_increments(parse_unresolved(texts), present)


def parse_unresolved(texts: list[str]) -> dict[str, object]:
    """The same for a run or a moment that is not known here: `+1` stays as it is, for the server to add."""
    try:
        return parse_assignments(" ".join(texts))
    except ValueError as error:
        raise CommandError(str(error), 2) from None


def await_outcome(client: Client, run_id: str, revision: int, wait_s: float, every_s: float = 0.2) -> AuditEntry | None:
    """The audit entry of `revision` once its fate is known: applied, rejected or superseded. None: not in time."""
    deadline = time.monotonic() + wait_s
    while True:
        for entry in client.audit(run_id).entries:
            if entry.revision == revision and entry.state is not RevisionState.PENDING:
                return entry
        if time.monotonic() >= deadline:
            return None
        time.sleep(every_s)


def _summary(before: Settings, changes: Mapping[str, object]) -> str:
    old = msgspec.to_builtins(before)
    return ", ".join(f"{name} {_shown(old.get(name))} → {_shown(value)}" for name, value in changes.items())


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode().strip('"')


def _record(
    run: RunSummary, revision: int, settings: Settings, entry: AuditEntry | None, state: str = RevisionState.PENDING
) -> dict[str, object]:
    return {
        "run_id": run.run_id,
        "revision": revision,
        "state": entry.state if entry else state,
        "applied_step": entry.applied_step if entry else None,
        "settings": settings,
    }


def _conclude(run: RunSummary, revision: int, entry: AuditEntry | None, waited: float | None) -> str:
    if entry is None and waited is not None:
        raise CommandError(
            f"revision {revision} is stored, but the job did not apply it within {waited:g} s. It will at its next "
            f"step, if it is alive: `steadynorm show {run.run_id}`.",
            NOT_YET,
        )
    if entry is None:
        return "pending"
    if entry.state is RevisionState.REJECTED:
        raise CommandError(f"the job refused revision {revision}: {entry.rejection or 'without a reason'}", REJECTED)
    if entry.state is RevisionState.SUPERSEDED:
        return f"revision {revision} was superseded by a later one before the job applied it"
    return f"applied at step {entry.applied_step}"
