"""`steadynorm audit`: the changes of a run's settings, for people or as JSON lines, verified locally on request."""

import sys
from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.options import Run, Server, find_run
from steadynorm_cli.commands.output import change, tell, timestamp
from steadynorm_cli.errors import CommandError, plain
from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.audit import verify as verify_chain
from steadynorm_contract.client import Client, NotFound
from steadynorm_contract.lifecycle import LifecycleChange, lifecycle_words, verify_lifecycle
from steadynorm_contract.notes import Note, NoteList, action_words, verify_notes
from steadynorm_contract.words import counted

BROKEN = 6
"""Exit code: the chain of hashes does not verify."""
ALL = 10_000  # as many as a server stores
ALL_OF_THE_RUN = 50
ALL_NOTES = 2000


def audit(
    run: Run,
    verify: Annotated[bool, typer.Option("--verify", help="Recompute the chain of hashes locally.")] = False,
    head: Annotated[
        str | None, typer.Option(help="A hash that you stored: verify that it is in the chain. Implies --verify.")
    ] = None,
    server: Server = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line, changes only, oldest first: can be verified.")
    ] = False,
) -> None:
    """Print who did what, with settings, notes, incidents and the run. Exit code 6: --verify found alterations."""
    client = Client(server)
    run_id = find_run(client, run).run_id
    verify = verify or head is not None
    listed = client.audit(run_id, limit=ALL, verify=verify)
    entries = listed.entries
    noted = _notes(client, run_id)
    notes = noted.notes
    if as_json:
        for entry in reversed(entries):
            typer.echo(msgspec.json.encode({"run_id": run_id, **msgspec.to_builtins(entry)}))
    else:
        lines = [(each.time, _line(each)) for each in entries] + [(each.time, _note_line(each)) for each in notes]
        lines += [(each.time, _lifecycle_line(each)) for each in listed.lifecycle]
        for _, line in sorted(lines):
            typer.echo(line)
        if not lines:
            tell(f"nothing was done with {run_id} yet")
    if not verify:
        return
    chain = verify_chain(run_id, entries, whole=listed.next is None and len(entries) < ALL)
    for each in (chain, listed.chain):  # the server knows which entry was its newest
        if each is not None and not each.verified:
            where = (
                "entries are missing" if each.broken_at is None else f"its chain breaks at revision {each.broken_at}"
            )
            raise CommandError(f"the audit list of {run_id} was tampered with: {where}.", BROKEN)
    if not verify_lifecycle(run_id, listed.lifecycle, whole=len(listed.lifecycle) < ALL_OF_THE_RUN):
        raise CommandError(f"what was done with {run_id} as a whole was tampered with: its chain breaks.", BROKEN)
    if not verify_notes(run_id, notes, noted.head).verified:
        raise CommandError(f"the notes of {run_id} were tampered with: their chain breaks.", BROKEN)
    known = {each.hash for each in entries} | {each.hash for each in notes} | {each.hash for each in listed.lifecycle}
    if head is not None and head not in known:
        raise CommandError(
            f"the audit list of {run_id} does not contain the hash {head[:80]!r}: it was rewritten or truncated.",
            BROKEN,
        )
    print(
        f"{counted(len(entries), 'entry', 'entries')} verified; the newest hash is {chain.head or 'none yet'}",
        file=sys.stderr,
    )
    if listed.lifecycle:
        newest = listed.lifecycle[0].hash or "none yet"
        count = counted(len(listed.lifecycle), "entry", "entries")
        print(f"{count} of the run as a whole verified; newest hash {newest}", file=sys.stderr)
    if notes:
        print(f"{counted(len(notes), 'note')} verified; the newest hash is {notes[0].hash}", file=sys.stderr)


def _notes(client: Client, run_id: str) -> NoteList:
    """All notes, newest first; none of a server that knows no notes."""
    try:
        return client.notes(run_id, ALL_NOTES)
    except NotFound:
        return NoteList(notes=[])


def _note_line(note: Note) -> str:
    said = ": ".join(filter(None, (plain(action_words(note)), plain(note.text))))
    return f" note  {timestamp(note.time)}  {plain(note.author)}  step {note.step}: {said}  {note.hash[:12]}"


def _lifecycle_line(entry: LifecycleChange) -> str:
    reason = f"  ({plain(entry.reason)})" if entry.reason else ""
    words = plain(lifecycle_words(entry))
    return f"  run  {timestamp(entry.time)}  {plain(entry.actor)}  {words}{reason}  {entry.hash[:12]}"


def _line(entry: AuditEntry) -> str:
    reason = f"  ({plain(entry.reason)})" if entry.reason else ""
    changes = plain(change(entry.before, entry.after))
    actor = plain(entry.actor)
    return f"{entry.revision:>5}  {timestamp(entry.time)}  {actor}  {changes}  {entry.state}{reason}  {entry.hash[:12]}"
