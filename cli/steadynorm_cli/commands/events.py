"""`steadynorm events`: what happened in a run, oldest first, and what happens while one looks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.options import Run, Server, find_run, plain
from steadynorm_contract.client import Client
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.runs import RunState

__all__ = ["event_line", "events", "events_after"]

PAGE = 2000
"""As many as the server gives at once."""
EVERY_S = 1.0
LIVE = (RunState.RUNNING, RunState.STALLED)


def events(
    run: Run,
    kind: Annotated[list[EventKind] | None, typer.Option(help="Only of this kind; may be given several times.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="The newest so many.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends, or Ctrl-C.")] = False,
    server: Server = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for scripts.")] = False,
) -> None:
    """Print a run's events, oldest first: spikes, non-finite gradients, throttling, stalls, its beginning and end."""
    client = Client(server)
    run_id = find_run(client, run).run_id
    kinds = frozenset(kind or EventKind)
    newest = client.events(run_id, limit=1).events
    seen = newest[0].id if newest else None
    for event in reversed(_newest(client, run_id, kinds, limit, seen)):
        _tell(event, as_json)
    while follow:
        live = client.run(run_id).state in LIVE  # asked first, so that the end is among the events below
        for event in reversed(list(events_after(client, run_id, seen))):
            seen = event.id
            if event.kind in kinds:
                _tell(event, as_json)
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
    """An id's place in time: `1700000000000-12` comes after `1700000000000-9`, which their texts do not say."""
    return tuple(int(part) for part in event_id.split("-"))


def _tell(event: Event, as_json: bool) -> None:
    typer.echo(msgspec.json.encode(event) if as_json else event_line(event))


def event_line(event: Event) -> str:
    """An event as one line for a terminal."""
    moment = datetime.fromtimestamp(event.time, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    data = f"  [{plain(event.batch_id)}]" if event.batch_id else ""
    return f"{moment}  step {event.step:>8}  {event.kind:<13}  {plain(event.message)}{data}"
