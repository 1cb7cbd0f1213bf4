"""`steadynorm undo`: restores the settings of an earlier revision, as a new change."""

from typing import Annotated

import typer

from steadynorm_cli.commands.options import AsJson, NoWait, Reason, Run, Server, Wait, find_run
from steadynorm_cli.commands.outcome import CONFLICT
from steadynorm_cli.commands.set import changes_since, send
from steadynorm_cli.errors import CommandError
from steadynorm_contract.audit import revert_to
from steadynorm_contract.client import Client
from steadynorm_contract.runs import RevisionState

PAGE = 10_000
"""As many as the server returns at once."""


def undo(
    run: Run,
    to: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="REVISION",
            help="0: as registered. Default: before the newest change; after a rejected one what the job trains with.",
        ),
    ] = None,
    reason: Reason = "",
    wait: Wait = 30.0,
    no_wait: NoWait = False,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Restore the settings of an earlier revision, as a new one. Counters stay. Exit codes are those of `set`."""
    client = Client(server)
    found = find_run(client, run)
    run_id, present = found.run_id, found.desired
    if to is None and present.revision == 0:
        raise CommandError(f"{run_id} has its settings as registered: there is no change to undo.")
    # Each revision holds all settings, so those after a rejected one were rejected with it.
    newest = found.applied.revision if present.state is RevisionState.REJECTED else present.revision - 1
    earlier = newest if to is None else to
    if earlier > present.revision:
        raise CommandError(f"--to must be at most {present.revision}, the newest revision: got {earlier}.", 2)
    entries = changes_since(client, run_id, earlier, PAGE)
    if any(entry.revision > present.revision for entry in entries):
        raise CommandError(
            f"the settings of {run_id} were changed concurrently, so nothing was undone. See them with "
            f"`steadynorm show {run_id}`, then try again.",
            CONFLICT,
        )
    changes = {} if earlier == present.revision else revert_to(earlier, present.settings, entries)
    if changes is None:
        raise CommandError(
            f"the audit list does not reach back to revision {earlier}: set the values with `steadynorm set`. "
            f"The known changes: `steadynorm audit {run_id}`."
        )
    back = f"back to r{earlier}" if earlier else "back to the settings as registered"
    reason = f"{back}: {reason}" if reason else back
    send(client, found, changes, reason=reason, wait=None if no_wait else wait, as_json=as_json)
