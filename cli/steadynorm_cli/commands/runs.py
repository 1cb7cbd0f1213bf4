"""`steadynorm runs` and `show`: the runs, and one of them in detail."""

from __future__ import annotations

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from steadynorm_cli.commands import output
from steadynorm_cli.commands.options import AsJson, Run, Server, find_run
from steadynorm_cli.commands.output import ago, console, number
from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.client import Client
from steadynorm_contract.events import Event
from steadynorm_contract.runs import Health, RevisionState, RunDetail, RunState, RunSummary

_STYLE = {
    RunState.RUNNING: "green",
    RunState.STALLED: "yellow",
    RunState.FAILED: "red",
    Health.NONFINITE: "red",
    Health.SPIKING: "yellow",
    Health.THROTTLED: "yellow",
    Health.DISCONNECTED: "yellow",
}


def runs(server: Server = None, as_json: AsJson = False) -> None:
    """List the runs, newest first."""
    client = Client(server)
    answer = client.runs()
    if as_json:
        typer.echo(msgspec.json.encode(answer))
        return
    if not answer.runs:
        typer.echo(f"no runs yet on {client.server}. In a training script: steadynorm.attach(model, optimizer)")
        return
    words, numbers = (
        ("RUN", "NAME", "STATE", "HEALTH"),
        ("STEP", "LOSS", "NORM", "TARGET", "SPIKES", "REVISION", "SEEN"),
    )
    table = output.table(*words, *numbers, fixed=words, right=numbers)
    for run in answer.runs:
        table.add_row(*_row(run))
    console().print(table)


def _row(run: RunSummary) -> list[str]:
    return [
        escape(run.run_id),
        escape(run.name),
        _styled(run.state),
        _styled(run.health),
        str(run.step),
        number(run.loss),
        number(run.raw_norm),
        number(run.target_min),
        str(run.counters.spikes),
        _revision(run),
        ago(run.last_seen),
    ]


def show(run: Run, server: Server = None, as_json: AsJson = False) -> None:
    """Show one run: its state, its settings, the newest changes and events."""
    client = Client(server)
    found = find_run(client, run)
    detail = found if isinstance(found, RunDetail) else client.run(found.run_id)
    if as_json:
        typer.echo(msgspec.json.encode(detail))
        return
    screen = console()
    screen.print(_facts(detail))
    screen.print()
    screen.print(_settings(detail))
    changes = client.audit(detail.run_id, limit=5).entries
    if changes:
        screen.print("\n[bold]CHANGES[/bold]")
        for entry in changes:
            screen.print(_change(entry), highlight=False, markup=False)
    events = client.events(detail.run_id, limit=8).events
    if events:
        screen.print("\n[bold]EVENTS[/bold]")
        for event in events:
            screen.print(_event(event), highlight=False, markup=False)


def _facts(run: RunDetail) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    speed = "" if run.steps_per_s is None else f", {run.steps_per_s:.3g} steps/s"
    counters = run.counters
    for name, value in {
        "run": escape(run.run_id),
        "name": escape(run.name),
        "state": f"{_styled(run.state)}, {_styled(run.health)}"
        + (f" ({escape(run.end_reason)})" if run.end_reason else ""),
        "step": f"{run.step}{speed}, last seen {ago(run.last_seen)} ago",
        "loss": number(run.loss),
        "gradient norm": f"{number(run.raw_norm)} raw, {number(run.stabilized_norm)} stabilized",
        "smallest target": number(run.target_min),
        "counters": f"{counters.spikes} spikes, {counters.nonfinite} non-finite, {counters.dropped} records dropped",
        "Redis": f"{run.store_bytes / 2**20:.1f} MiB",
        "job": f"{run.parameters} parameters, world size {run.world_size}"
        + "".join(f", {escape(part)}" for part in (run.framework, run.host) if part),
    }.items():
        table.add_row(name, value)
    return table


def _settings(run: RunDetail) -> Table:
    applied = f"APPLIED (revision {run.applied.revision} since step {run.applied.step})"
    table = output.table("SETTING", applied, fixed=("SETTING", applied))
    if run.desired.state is not RevisionState.APPLIED and run.desired.revision != run.applied.revision:
        why = f": {escape(run.desired.reason)}" if run.desired.reason else ""
        table.add_column(f"DESIRED (revision {run.desired.revision}, {run.desired.state}{why})")
    desired = msgspec.to_builtins(run.desired.settings)
    for name, value in msgspec.to_builtins(run.applied.settings).items():
        pending = output.value(desired[name]) if desired[name] != value else ""
        table.add_row(name, output.value(value), *([pending] if len(table.columns) == 3 else []))
    return table


def _change(entry: AuditEntry) -> str:
    what = output.change(entry.before, entry.after)
    outcome = str(entry.state) if entry.applied_step is None else f"{entry.state} at step {entry.applied_step}"
    reason = f" ({entry.reason})" if entry.reason else ""
    rejection = f": {entry.rejection}" if entry.rejection else ""
    return f"  {entry.revision}  {ago(entry.time)} ago, {entry.actor}: {what}: {outcome}{rejection}{reason}"


def _event(event: Event) -> str:
    return f"  step {event.step}, {ago(event.time)} ago  {event.kind}: {event.message}"


def _revision(run: RunSummary) -> str:
    if run.desired.revision == run.applied.revision:
        return str(run.applied.revision)
    return f"{run.applied.revision} → {run.desired.revision} {run.desired.state}"


def _styled(word: RunState | Health) -> str:
    style = _STYLE.get(word)
    return f"[{style}]{word}[/{style}]" if style else str(word)
