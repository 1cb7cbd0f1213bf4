"""`steadynorm rollback` and `steadynorm recovery`: a run goes back to a snapshot, and what it could go back to."""

from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.events import event_line
from steadynorm_cli.commands.options import AsJson, NoWait, Reason, Run, Server, Wait, find_run
from steadynorm_cli.commands.set import send
from steadynorm_cli.errors import CommandError, plain
from steadynorm_contract.client import Client
from steadynorm_contract.conditions import no_value_words
from steadynorm_contract.events import EventKind
from steadynorm_contract.runs import RunDetail
from steadynorm_contract.telemetry import DetectorStatus
from steadynorm_contract.words import counted

_KINDS = frozenset({EventKind.ROLLBACK, EventKind.ROLLBACK_ADVISED, EventKind.UNRECOVERABLE})
_READ = 2000  # events: as many as the server returns at once


def rollback(
    run: Run,
    to: Annotated[
        int | None,
        typer.Option(min=0, metavar="STEP", help="The step of a snapshot that is kept. Default: the newest good one."),
    ] = None,
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Wait = 30.0,
    no_wait: NoWait = False,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Roll a run back to a snapshot, on all ranks; it continues with the next data. Exit codes are those of `set`."""
    client = Client(server)
    detail = client.run(find_run(client, run).run_id)
    target = _target(detail, to)
    if not yes and not as_json:
        question = f"Roll {detail.run_id} back from about step {detail.step} to the weights after step {target}?"
        if not typer.confirm(question):
            raise CommandError("nothing was changed.")
    changes = {"rollback_generation": detail.desired.settings.rollback_generation + 1, "rollback_to": to}
    send(client, detail, changes, reason=reason, wait=None if no_wait else wait, as_json=as_json)


def _target(run: RunDetail, to: int | None) -> int:
    """The snapshot's step. Raises CommandError where the agent would refuse."""
    known = run.recovery
    if known is None:
        raise CommandError(f"{run.run_id} keeps no snapshots: pass recovery=steadynorm.Recovery() to attach().")
    if not known.snapshots:
        raise CommandError(
            f"{run.run_id} has no good snapshot yet, at step {run.step}: one is taken every {known.every_steps} steps, "
            f"and is good some steps later. See `steadynorm recovery {run.run_id}`."
        )
    if to is not None and to not in known.snapshots:
        kept = ", ".join(map(str, known.snapshots))
        raise CommandError(f"--to must be the step of a snapshot that is kept: got {to}. Kept are {kept}.", 2)
    return known.snapshots[-1] if to is None else to


def _unmet(detector: DetectorStatus, run: RunDetail) -> str:
    """Why a detector cannot be met, if it has had nothing to look at."""
    if detector.has_value:
        return ""
    return f"  ({plain(no_value_words(detector.condition, [each.name for each in run.scalars]))})"


def recovery(run: Run, server: Server = None, as_json: AsJson = False) -> None:
    """Show what a run can be rolled back to, the budget that is left, and what was rolled back."""
    client = Client(server)
    detail = client.run(find_run(client, run).run_id)
    events = [each for each in client.events(detail.run_id, limit=_READ).events if each.kind in _KINDS]
    if as_json:
        record = {
            "run_id": detail.run_id, "mode": detail.applied.settings.recovery, "recovery": detail.recovery,
            "rollbacks": detail.rollbacks, "events": events,
        }  # fmt: skip
        typer.echo(msgspec.json.encode(record))
        return
    known = detail.recovery
    if known is None:
        typer.echo(f"{detail.run_id} keeps no snapshots: pass recovery=steadynorm.Recovery() to attach()")
    else:
        kept = ", ".join(map(str, known.snapshots)) or f"none yet; one is taken every {known.every_steps} steps"
        typer.echo(f"mode       {detail.applied.settings.recovery}")
        typer.echo(f"snapshots  {kept}  (the run is at step {detail.step})")
        typer.echo(f"budget     {counted(known.budget_left, 'automatic rollback')} left")
        typer.echo(f"rollbacks  {detail.rollbacks}")
        for title, each in zip(["detectors", *[""] * len(known.detectors)], known.detectors, strict=False):
            typer.echo(f"{title:<11}{plain(each.condition)}{_unmet(each, detail)}")
    for event in reversed(events):
        typer.echo(event_line(event))
