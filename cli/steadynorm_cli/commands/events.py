"""`steadynorm events`: the events of a run, oldest first, and new ones as they happen."""

import time
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.options import Run, Server, find_run
from steadynorm_cli.commands.output import tell, timestamp
from steadynorm_cli.errors import plain
from steadynorm_contract.client import Client
from steadynorm_contract.events import Event, EventKind

PAGE = 2000
"""As many as the server returns at once."""
EVERY_S = 1.0
_KINDS = f"Only events of this kind; repeatable. One of {', '.join(EventKind)}."


def events(
    run: Run,
    kind: Annotated[list[EventKind] | None, typer.Option(metavar="KIND", help=_KINDS)] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most this many of the newest.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new events until the run ends, or Ctrl-C.")
    ] = False,
    server: Server = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line, for scripts.")] = False,
) -> None:
    """Print a run's events, oldest first: spikes, non-finite gradients, throttling, stalls, start and end."""
    client = Client(server)
    run_id = find_run(client, run).run_id
    kinds = frozenset(kind or EventKind)
    newest = client.events(run_id, limit=1).events
    seen = newest[0].id if newest else None
    past = _newest(client, run_id, kinds, limit, seen)
    for event in reversed(past):
        _print(event, as_json)
    if not past and limit and not as_json:
        tell(
            f"{run_id} has no events" + (f" of kind {' or '.join(kinds)}" if kind else "") + (" yet" if follow else "")
        )
    while follow:
        live = client.run(run_id).state.is_live  # read first, so that the end is among the events below
        for event in reversed(list(events_after(client, run_id, seen))):
            seen = event.id
            if event.kind in kinds:
                _print(event, as_json)
        if not live:
            return
        time.sleep(EVERY_S)


def _newest(client: Client, run_id: str, kinds: frozenset[EventKind], limit: int, until: str | None) -> list[Event]:
    """The newest `limit` events of these kinds, newest first, none of them later than the id `until`."""
    found: list[Event] = []
    if until is None:
        return found
    for event in _pages(client, run_id):
        if len(found) == limit:
            break
        if event.kind in kinds and _moment(event.id) <= _moment(until):
            found.append(event)
    return found


def events_after(client: Client, run_id: str, seen: str | None) -> Iterator[Event]:
    """Events later than the one with the id `seen`, newest first; all of them for None."""
    for event in _pages(client, run_id, first=50):
        if seen is not None and _moment(event.id) <= _moment(seen):
            return
        yield event


def _pages(client: Client, run_id: str, first: int = PAGE) -> Iterator[Event]:
    page = client.events(run_id, limit=first)
    yield from page.events
    while page.next is not None:
        page = client.events(run_id, limit=PAGE, cursor=page.next)
        yield from page.events


def _moment(event_id: str) -> tuple[int, ...]:
    """Sort key of an id: `1700000000000-12` comes after `1700000000000-9`, unlike in the order of their texts."""
    return tuple(int(part) for part in event_id.split("-"))


def _print(event: Event, as_json: bool) -> None:
    typer.echo(msgspec.json.encode(event) if as_json else event_line(event))


def event_line(event: Event) -> str:
    """An event as one line for a terminal."""
    data = f"  [{plain(event.batch_id)}]" if event.batch_id else ""
    return f"{timestamp(event.time)}  step {event.step:>8}  {event.kind:<13}  {plain(event.message)}{data}"
