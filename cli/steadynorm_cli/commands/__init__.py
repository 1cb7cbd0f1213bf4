"""The commands of `steadynorm`, one file each. Needs typer and rich; everything else is imported when needed."""

from __future__ import annotations

from typing import Annotated

import typer

from steadynorm_cli.commands import (
    audit,
    demo,
    doctor,
    events,
    export,
    retention,
    rules,
    runs,
    schedules,
    serve,
    set_many,
    token,
    undo,
    watch,
    webhook_test,
)
from steadynorm_cli.commands import set as set_command
from steadynorm_contract import __version__

app = typer.Typer(
    help="Watch and stabilize a training run's gradient norms, and change its settings while it runs.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"steadynorm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version  # its callback did the work


app.command("up")(serve.up)
app.command("server")(serve.server)
app.command("dashboard")(serve.dashboard)
app.command("runs")(runs.runs)
app.command("show")(runs.show)
app.command("set")(set_command.set_)
app.command("set-many")(set_many.set_many)
app.command("schedule")(schedules.schedule)
app.command("schedules")(schedules.schedules)
app.command("rules")(rules.rules)
app.command("retain")(retention.retain)
app.command("watch")(watch.watch)
app.command("undo")(undo.undo)
app.command("events")(events.events)
app.command("audit")(audit.audit)
app.command("export")(export.export)
app.command("doctor")(doctor.doctor)
app.command("webhook-test")(webhook_test.webhook_test)
app.command("demo")(demo.demo)
app.add_typer(token.app, name="token")
