"""`steadynorm runs` and `show`: what trains, and how it does."""

from __future__ import annotations

import time

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from steadynorm_cli.commands.options import AsJson, Run, Server, console, find_run, number
from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.client import Client
from steadynorm_contract.events import Event
from steadynorm_contract.runs import Health, RevisionState, RunDetail, RunState, RunSummary

__all__ = ["runs", "show"]

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
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("RUN", "NAME", "STATE", "HEALTH"):
        table.add_column(column, no_wrap=True)
    for column in ("STEP", "LOSS", "NORM", "TARGET", "SPIKES", "REVISION", "SEEN"):
        table.add_column(column, justify="right", no_wrap=True)
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
        _ago(run.last_seen),
    ]


def show(run: Run, server: Server = None, as_json: AsJson = False) -> None:
    """Show one run: where it is, its settings, the newest changes and events."""
    client = Client(server)
    detail = client.run(find_run(client, run).run_id)
    if as_json:
        typer.echo(msgspec.json.encode(detail))
        return
    screen = console()
    screen.print(_facts(detail))
    screen.print()
    screen.print(_settings(detail))
    changes = client.audit(detail.run_id).entries[:5]
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
        "step": f"{run.step}{speed}, last heard of {_ago(run.last_seen)} ago",
        "loss": number(run.loss),
        "gradient norm": f"{number(run.raw_norm)} raw, {number(run.stabilized_norm)} stabilized",
        "smallest target": number(run.target_min),
        "counted": f"{counters.spikes} spikes, {counters.nonfinite} non-finite, {counters.dropped} records dropped",
        "store": f"{run.store_bytes / 2**20:.1f} MiB",
        "job": f"{run.parameters} parameters, world size {run.world_size}"
        + "".join(f", {escape(part)}" for part in (run.framework, run.host) if part),
    }.items():
        table.add_row(name, value)
    return table


def _settings(run: RunDetail) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("SETTING", no_wrap=True)
    table.add_column(f"APPLIED (revision {run.applied.revision} since step {run.applied.step})", no_wrap=True)
    if run.desired.state is not RevisionState.APPLIED and run.desired.revision != run.applied.revision:
        why = f": {escape(run.desired.reason)}" if run.desired.reason else ""
        table.add_column(f"WANTED (revision {run.desired.revision}, {run.desired.state}{why})")
    desired = msgspec.to_builtins(run.desired.settings)
    for name, value in msgspec.to_builtins(run.applied.settings).items():
        wanted = _json(desired[name]) if desired[name] != value else ""
        table.add_row(name, _json(value), *([wanted] if len(table.columns) == 3 else []))
    return table


def _change(entry: AuditEntry) -> str:
    what = ", ".join(f"{name} {_json(entry.before.get(name))} → {_json(value)}" for name, value in entry.after.items())
    outcome = str(entry.state) if entry.applied_step is None else f"{entry.state} at step {entry.applied_step}"
    reason = f" ({entry.reason})" if entry.reason else ""
    rejection = f": {entry.rejection}" if entry.rejection else ""
    return f"  {entry.revision}  {_ago(entry.time)} ago, {entry.actor}: {what}: {outcome}{rejection}{reason}"


def _event(event: Event) -> str:
    return f"  step {event.step}, {_ago(event.time)} ago  {event.kind}: {event.message}"


def _revision(run: RunSummary) -> str:
    if run.desired.revision == run.applied.revision:
        return str(run.applied.revision)
    return f"{run.applied.revision} → {run.desired.revision} {run.desired.state}"


def _styled(word: RunState | Health) -> str:
    style = _STYLE.get(word)
    return f"[{style}]{word}[/{style}]" if style else str(word)


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode().strip('"')
