"""`steadynorm undo`: back to the settings of an earlier revision, as a change like any other."""

from __future__ import annotations

from typing import Annotated

import typer

from steadynorm_cli.commands.options import AsJson, Run, Server, find_run
from steadynorm_cli.commands.set import CONFLICT, send
from steadynorm_cli.errors import CommandError
from steadynorm_contract.audit import AuditEntry, revert_to
from steadynorm_contract.client import Client

__all__ = ["undo"]

PAGE = 10_000
"""As many as the server gives at once."""


def undo(
    run: Run,
    to: Annotated[
        int | None,
        typer.Option(min=0, metavar="REVISION", help="0: as registered. Default: before the newest change."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; it stands in the run's audit list.")] = "",
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until the job applied it.")] = 30.0,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait.")] = False,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Bring back the settings of an earlier revision, as a new one. Counters stay. Exit codes are those of `set`."""
    client = Client(server)
    summary = find_run(client, run)
    present = client.settings(summary.run_id)
    if to is None and present.revision == 0:
        raise CommandError(f"{summary.run_id} has its settings as registered: there is no change to take back.")
    earlier = present.revision - 1 if to is None else to
    if earlier > present.revision:
        raise CommandError(f"--to must be at most {present.revision}, the newest revision: got {earlier}.", 2)
    entries = _changes_since(client, summary.run_id, earlier)
    if any(entry.revision > present.revision for entry in entries):
        raise CommandError(
            f"somebody else changed the settings of {summary.run_id} in this moment, so nothing was undone. "
            f"Look at them with `steadynorm show {summary.run_id}` and decide again.",
            CONFLICT,
        )
    changes = {} if earlier == present.revision else revert_to(earlier, present.settings, entries)
    if changes is None:
        raise CommandError(
            f"the list of changes does not reach back to revision {earlier}: set the values by `steadynorm set`. "
            f"What is known: `steadynorm audit {summary.run_id}`."
        )
    back = f"back to r{earlier}" if earlier else "back to the settings as registered"
    send(client, summary, present, changes, reason=f"{back}: {reason}" if reason else back,
         wait=None if no_wait else wait, as_json=as_json)  # fmt: skip


def _changes_since(client: Client, run_id: str, revision: int) -> list[AuditEntry]:
    """The changes later than `revision`, newest first."""
    found: list[AuditEntry] = []
    cursor: str | None = None
    while True:
        page = client.audit(run_id, limit=PAGE, cursor=cursor)
        found += [entry for entry in page.entries if entry.revision > revision]
        if page.next is None or any(entry.revision <= revision for entry in page.entries):
            return found
        cursor = page.next
