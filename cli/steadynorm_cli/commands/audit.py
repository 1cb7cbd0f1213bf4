"""`steadynorm audit`: the changes of a run's settings, for people or as JSON lines, verified locally on request."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.options import Run, Server, find_run
from steadynorm_cli.commands.output import change, plain, timestamp
from steadynorm_cli.errors import CommandError
from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.audit import verify as verify_chain
from steadynorm_contract.client import Client

BROKEN = 6
"""Exit code: the chain of hashes does not verify."""
ALL = 10_000  # as many as a server stores


def audit(
    run: Run,
    verify: Annotated[bool, typer.Option("--verify", help="Recompute the chain of hashes locally.")] = False,
    head: Annotated[
        str | None, typer.Option(help="A hash that you stored: verify that it is in the chain. Implies --verify.")
    ] = None,
    server: Server = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line, oldest first: an export that can be verified.")
    ] = False,
) -> None:
    """Print the changes of a run's settings. Exit code 6: --verify found entries changed, removed or inserted."""
    client = Client(server)
    run_id = find_run(client, run).run_id
    entries = client.audit(run_id, limit=ALL).entries
    for entry in reversed(entries):
        typer.echo(msgspec.json.encode({"run_id": run_id, **msgspec.to_builtins(entry)}) if as_json else _line(entry))
    if not verify and head is None:
        return
    chain = verify_chain(run_id, entries)
    if not chain.verified:
        raise CommandError(
            f"the audit list of {run_id} was tampered with: its chain breaks at revision {chain.broken_at}.", BROKEN
        )
    if head is not None and head not in {entry.hash for entry in entries}:
        raise CommandError(
            f"the audit list of {run_id} does not contain the hash {head[:80]!r}: it was rewritten or truncated.",
            BROKEN,
        )
    print(f"{len(entries)} entries verified; the newest hash is {chain.head or 'none yet'}", file=sys.stderr)


def _line(entry: AuditEntry) -> str:
    reason = f"  ({plain(entry.reason)})" if entry.reason else ""
    changes = plain(change(entry.before, entry.after))
    actor = plain(entry.actor)
    return f"{entry.revision:>5}  {timestamp(entry.time)}  {actor}  {changes}  {entry.state}{reason}  {entry.hash[:12]}"
