"""`steadynorm schedule` and `steadynorm schedules`: changes that are made once a run reaches a step."""

from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from steadynorm_cli.commands.options import AsJson, Changes, Reason, Run, Server, find_run
from steadynorm_cli.commands.outcome import confirmed
from steadynorm_cli.commands.output import assignments, console, table, tell
from steadynorm_cli.commands.set import parse_changes
from steadynorm_cli.errors import plain
from steadynorm_contract.client import Client
from steadynorm_contract.schedules import Schedule, ScheduleState

_STYLE = {ScheduleState.WAITING: "bold", ScheduleState.DONE: "green", ScheduleState.FAILED: "red"}


def schedule(
    run: Run,
    changes: Changes,
    from_step: Annotated[int, typer.Option(min=1, help="First step with the change; above the run's present step.")],
    reason: Reason = "",
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Change a run's settings once it reaches a step. `steadynorm schedules` lists and cancels such changes."""
    client = Client(server)
    found = find_run(client, run)
    parsed = parse_changes(changes)
    made = confirmed(lambda: client.schedule(found.run_id, from_step, parsed, reason=reason))
    if as_json:
        typer.echo(msgspec.json.encode(made))
        return
    typer.echo(f"{found.run_id}: schedule {made.id}: {assignments(made.settings)} from step {made.from_step}")
    typer.echo(f"the run is at step {found.step}; to cancel: steadynorm schedules {found.run_id} --remove {made.id}")


def schedules(
    run: Run,
    remove: Annotated[str | None, typer.Option(metavar="ID", help="Cancel a waiting schedule.")] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Print a run's schedules: waiting ones first, the next one on top, then finished ones."""
    client = Client(server)
    run_id = find_run(client, run).run_id
    if remove is not None:
        confirmed(lambda: client.unschedule(run_id, remove))
        if not as_json:
            typer.echo(f"{run_id}: schedule {remove} is cancelled")
            return
    known = client.schedules(run_id)
    if as_json:
        typer.echo(msgspec.json.encode(known))
        return
    if not known.schedules:
        tell(f"{run_id} has no schedules; `steadynorm schedule` makes one")
        return
    listed = table("ID", "STATE", "FROM STEP", "CHANGE", "BY", "OUTCOME", fixed=("ID", "STATE"))
    for each in known.schedules:
        style = _STYLE[each.state]
        cells = (assignments(each.settings), each.created_by, _outcome(each))
        state = f"[{style}]{each.state}[/{style}]"
        listed.add_row(each.id, state, str(each.from_step), *(escape(plain(cell)) for cell in cells))
    console().print(listed)


def _outcome(each: Schedule) -> str:
    if each.state is ScheduleState.WAITING:
        return each.reason
    return each.why if each.revision is None else f"revision {each.revision} at step {each.step}"
