"""`steadynorm audit`: who changed what, for people or as JSON lines to keep, and verified on this side."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.options import Run, Server, find_run
from steadynorm_cli.errors import CommandError
from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.audit import verify as verify_chain
from steadynorm_contract.client import Client

__all__ = ["BROKEN", "audit"]

BROKEN = 6
"""Exit code: the chain of hashes does not hold."""
ALL = 10_000  # as many as a server keeps


def audit(
    run: Run,
    verify: Annotated[bool, typer.Option("--verify", help="Recompute the chain of hashes here.")] = False,
    head: Annotated[
        str | None, typer.Option(help="A hash that you kept: with --verify, it must be in the chain.")
    ] = None,
    server: Server = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, oldest first: an export that verifies by itself.")
    ] = False,
) -> None:
    """Print a run's changes of settings. Exit code 6: --verify found them changed, left out or put in between."""
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
            f"the audit of {run_id} is not what was written: its chain breaks at revision {chain.broken_at}.", BROKEN
        )
    if head is not None and head not in {entry.hash for entry in entries}:
        raise CommandError(
            f"the audit of {run_id} does not contain the hash {head[:80]!r}: it was rewritten, or cut.", BROKEN
        )
    print(f"{len(entries)} entries verified; the newest hash is {chain.head or 'none yet'}", file=sys.stderr)


def _line(entry: AuditEntry) -> str:
    moment = datetime.fromtimestamp(entry.time, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    changes = ", ".join(f"{name} {_shown(entry.before.get(name))} → {_shown(now)}" for name, now in entry.after.items())
    why = f"  ({_shown(entry.reason)})" if entry.reason else ""
    return f"{entry.revision:>5}  {moment}  {_shown(entry.actor)}  {changes}  {entry.state}{why}  {entry.hash[:12]}"


def _shown(value: object) -> str:
    """A value for a terminal: as JSON, so that a name can hold no control sequence."""
    text = msgspec.json.encode(value).decode()
    plain = text[1:-1] if isinstance(value, str) else text
    return plain if plain.isprintable() else plain.encode("unicode_escape").decode()
