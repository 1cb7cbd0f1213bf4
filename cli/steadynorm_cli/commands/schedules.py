"""`steadynorm schedule` and `steadynorm schedules`: changes that wait for a step."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from steadynorm_cli.commands.options import AsJson, Run, Server, console, find_run, plain
from steadynorm_cli.commands.set import ChangeNotifier, parse_unresolved
from steadynorm_contract.client import Client
from steadynorm_contract.schedules import Schedule, ScheduleState

__all__ = ["schedule", "schedules", "shown_changes"]

_STYLE = {ScheduleState.WAITING: "bold", ScheduleState.DONE: "green", ScheduleState.FAILED: "red"}


def schedule(
    run: Run,
    changes: ChangeNotifier,
    from_step: Annotated[int, typer.Option(min=1, help="The step from which on; the run must not have reached it.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the run's audit list.")] = "",
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Change settings of a run once it reaches a step, whoever is at a keyboard then. `schedules` lists them."""
    client = Client(server)
    summary = find_run(client, run)
    made = client.schedule(summary.run_id, from_step, parse_unresolved(changes), reason=reason)
    if as_json:
        typer.echo(msgspec.json.encode(made))
        return
    typer.echo(f"{summary.run_id}: schedule {made.id}: {shown_changes(made.settings)} from step {made.from_step}")
    typer.echo(f"the run is at step {summary.step}; to take it back: steadynorm schedules {summary.run_id} --remove "
               f"{made.id}")  # fmt: skip


def schedules(
    run: Run,
    remove: Annotated[str | None, typer.Option(metavar="ID", help="Take back one that waits.")] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Print a run's schedules: those that wait, the next one first, then those that were made."""
    client = Client(server)
    summary = find_run(client, run)
    if remove is not None:
        client.unschedule(summary.run_id, remove)
        if not as_json:
            typer.echo(f"{summary.run_id}: schedule {remove} is taken back")
            return
    found = client.schedules(summary.run_id)
    if as_json:
        typer.echo(msgspec.json.encode(found))
        return
    if not found.schedules:
        typer.echo(f"{summary.run_id} has no schedules: `steadynorm schedule` makes one")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("ID", "STATE", "FROM STEP", "CHANGE", "BY", "OUTCOME"):
        table.add_column(column, no_wrap=column in ("ID", "STATE"))
    for each in found.schedules:
        style = _STYLE[each.state]
        cells = (shown_changes(each.settings), each.created_by, _outcome(each))
        table.add_row(each.id, f"[{style}]{each.state}[/{style}]", str(each.from_step),
                      *(escape(plain(cell)) for cell in cells))  # fmt: skip
    console().print(table)


def shown_changes(settings: dict[str, object]) -> str:
    """A change as it is typed."""
    return " ".join(f"{name}={msgspec.json.encode(value).decode().strip(chr(34))}" for name, value in settings.items())


def _outcome(each: Schedule) -> str:
    if each.state is ScheduleState.WAITING:
        return each.reason
    made = f"revision {each.revision}" if each.revision is not None else each.why
    return f"{made} at step {each.step}" if each.revision is not None else made
