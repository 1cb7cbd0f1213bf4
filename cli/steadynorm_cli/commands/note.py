"""`steadynorm note` and `notes`: notes on a run, a step or an incident, and who deals with the incident."""

from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.options import AsJson, Run, Server, find_run
from steadynorm_cli.commands.outcome import confirmed
from steadynorm_cli.commands.output import tell, timestamp
from steadynorm_cli.errors import CommandError, plain
from steadynorm_contract.client import Client
from steadynorm_contract.events import EventKind
from steadynorm_contract.notes import NewNote, Note, NoteAction, action_words

_EVENTS = 2000
_PAGE = 2000
_INCIDENTS = (EventKind.SPIKE, EventKind.NONFINITE, EventKind.THROTTLED)
"""In this order: a spike and the throttling that it begins are often at one step."""


def note(
    run: Run,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="At most 2,000 characters.")] = "",
    step: Annotated[
        int | None, typer.Option(metavar="STEP", min=0, help="Step that it is about. Default: the run's present one.")
    ] = None,
    incident: Annotated[
        str | None,
        typer.Option(metavar="STEP", help="The incident that it is about: the step of its event, or its id."),
    ] = None,
    take: Annotated[bool, typer.Option("--take", help="With --incident: you deal with it from now on.")] = False,
    hand_over: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --incident: somebody else deals with it from now on.")
    ] = None,
    close: Annotated[bool, typer.Option("--close", help="With --incident: it is dealt with.")] = False,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Write a note on a run, a step or an incident; take, hand over or close the incident. Exit code: 7 unknown."""
    actions = [NoteAction.TAKE] * take + [NoteAction.HAND_OVER] * (hand_over is not None) + [NoteAction.CLOSE] * close
    if len(actions) > 1:
        raise CommandError("--take, --hand-over and --close exclude each other.", 2)
    if actions and incident is None:
        raise CommandError(f"--{actions[0].value.replace('_', '-')} requires --incident STEP.", 2)
    if not actions and not text.strip():
        raise CommandError("missing TEXT. `steadynorm notes RUN` lists the notes.", 2)
    client = Client(server)
    run_id = find_run(client, run).run_id
    new = NewNote(
        text=text,
        step=step,
        event=None if incident is None else _event(client, run_id, incident),
        action=actions[0] if actions else NoteAction.NOTE,
        to=hand_over or "",
    )
    made = confirmed(lambda: client.add_note(run_id, new))
    typer.echo(msgspec.json.encode(made) if as_json else f"{run_id}: {note_line(made)}")


def notes(run: Run, server: Server = None, as_json: AsJson = False) -> None:
    """Print a run's notes, oldest first, and what became of its incidents."""
    client = Client(server)
    run_id = find_run(client, run).run_id
    page = client.notes(run_id, _PAGE)
    if as_json:
        typer.echo(msgspec.json.encode(page))
        return
    for each in reversed(page.notes):
        typer.echo(note_line(each))
    if not page.notes:
        tell(f"{run_id} has no notes; `steadynorm note` writes one")
    for status in page.incidents:
        typer.echo(f"the incident at step {status.step} is {status.state} by {plain(status.by)}")


def note_line(each: Note) -> str:
    """A note as one line for a terminal."""
    said = ": ".join(filter(None, (plain(action_words(each)), plain(each.text))))
    author = plain(each.author) + (" (agent)" if each.by_agent else "")
    return f"{timestamp(each.time)}  step {each.step:>8}  {author}  {said}"


def _event(client: Client, run_id: str, named: str) -> str:
    """The id of the event that is named by its id or its step: of a step's events the incident, see _INCIDENTS."""
    events = client.events(run_id, limit=_EVENTS).events
    if any(named == each.id for each in events):
        return named
    there = [each for each in events if named == str(each.step)]
    for kind in _INCIDENTS:
        if of_kind := [each for each in there if each.kind is kind]:
            there = of_kind
            break
    if not there:
        raise CommandError(f"{run_id} has no event at step {plain(named)!r} or of this id: see `steadynorm events`.")
    if len(there) > 1:
        ids = ", ".join(f"{each.id} ({each.kind})" for each in there)
        raise CommandError(f"step {named} of {run_id} has {len(there)} events: name one by its id: {ids}.", 2)
    return there[0].id
