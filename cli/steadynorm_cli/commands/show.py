"""`steadynorm show`: one run in detail."""

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from steadynorm_cli.commands import output
from steadynorm_cli.commands.options import AsJson, Run, Server, find_run
from steadynorm_cli.commands.output import ago, console, number, styled
from steadynorm_cli.commands.runs import health_of, holder
from steadynorm_cli.errors import plain
from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.client import Client, NotFound
from steadynorm_contract.configuration import RunConfiguration, flattened
from steadynorm_contract.events import Event
from steadynorm_contract.runs import RevisionState, RunDetail
from steadynorm_contract.settings import by_name
from steadynorm_contract.words import counted

_MAX_PAIRS = 100


def show(run: Run, server: Server = None, as_json: AsJson = False) -> None:
    """Show one run: its state, its settings, what it was started with, the newest changes and events."""
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
    try:
        started_with = client.configuration(detail.run_id)
    except NotFound:  # a server of before there was any
        started_with = RunConfiguration()
    for title, pairs in (
        ("CONFIG", list(flattened(started_with.config)) if started_with.config else []),
        ("ENVIRONMENT", list(started_with.environment.items())),
    ):
        if pairs:
            screen.print(f"\n[bold]{title}[/bold]")
        for name, value in pairs[:_MAX_PAIRS]:
            screen.print(f"  {plain(name)} = {plain(value)}", highlight=False, markup=False)
        if len(pairs) > _MAX_PAIRS:
            screen.print(f"  and {len(pairs) - _MAX_PAIRS} more", highlight=False, markup=False)
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
        "run": escape(plain(run.run_id)),
        "name": escape(plain(run.name)),
        "state": styled(run.condition)
        + (f", {styled(health_of(run))}" if run.state.is_live and health_of(run) != run.condition else "")
        + (f", taken by {escape(plain(by))}" if (by := holder(run)) else "")
        + (f" ({escape(plain(run.end_reason))})" if run.end_reason else ""),
        "step": f"{run.step}{speed}, last seen {ago(run.last_seen)} ago",
        "loss": number(run.loss),
        "gradient norm": f"{number(run.raw_norm)} raw, {number(run.stabilized_norm)} stabilized",
        "smallest target": number(run.target_min),
        "counters": f"{counted(counters.spikes, 'spike')} and {counters.nonfinite} non-finite (each parameter of each "
        f"step), {counted(counters.nonfinite_losses, 'non-finite loss', 'non-finite losses')}, "
        f"{counted(counters.dropped, 'record')} dropped",
        "Redis": f"{run.redis_bytes / 2**20:.1f} MiB",
        "job": f"{counted(run.parameters, 'parameter')}, world size {run.world_size}"
        + "".join(f", {escape(plain(part))}" for part in (run.framework, run.host) if part),
    }.items():
        table.add_row(name, value)
    for scalar in run.scalars:
        bad = f", {scalar.nonfinite} not finite" if scalar.nonfinite else ""
        at = "" if scalar.step is None else f" (step {scalar.step})"
        unit = f" {escape(plain(scalar.unit))}" if scalar.unit else ""
        table.add_row(escape(plain(scalar.name)), f"{number(scalar.value)}{unit}{at}{bad}")
    return table


def _settings(run: RunDetail) -> Table:
    applied = f"APPLIED (revision {run.applied.revision} since step {run.applied.step})"
    table = output.table("SETTING", applied, fixed=("SETTING", applied))
    if run.desired.state is not RevisionState.APPLIED and run.desired.revision != run.applied.revision:
        why = f": {escape(plain(run.desired.reason))}" if run.desired.reason else ""
        table.add_column(f"DESIRED (revision {run.desired.revision}, {run.desired.state}{why})")
    desired = by_name(run.desired.settings)
    for name, value in by_name(run.applied.settings).items():
        pending = output.value(desired[name]) if desired.get(name, value) != value else ""
        table.add_row(escape(name), output.value(value), *([pending] if len(table.columns) == 3 else []))
    return table


def _change(entry: AuditEntry) -> str:
    what = output.change(entry.before, entry.after)
    outcome = str(entry.state) if entry.applied_step is None else f"{entry.state} at step {entry.applied_step}"
    reason = f" ({entry.reason})" if entry.reason else ""
    said = f": {entry.rejection or entry.remark}" if entry.rejection or entry.remark else ""
    return plain(f"  {entry.revision}  {ago(entry.time)} ago, {entry.actor}: {what}: {outcome}{said}{reason}")


def _event(event: Event) -> str:
    return plain(f"  step {event.step}, {ago(event.time)} ago  {event.kind}: {event.message}")
