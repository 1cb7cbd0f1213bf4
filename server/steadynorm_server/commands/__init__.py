"""The commands of `steadynorm`, one file a group. Needs typer and rich; all else is imported when needed."""

from __future__ import annotations

from typing import Annotated

import typer

from steadynorm_contract import __version__
from steadynorm_server.commands import (
    audit,
    change,
    demo,
    doctor,
    events,
    export,
    house,
    many,
    retain,
    rules,
    runs,
    schedule,
    token,
    undo,
    watch,
    webhook,
)

__all__ = ["app"]

app = typer.Typer(
    help="Watch and stabilize a training run's gradient norms, and change how while it runs.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"steadynorm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version  # its callback did the work


app.command("up")(house.up)
app.command("server")(house.server)
app.command("dashboard")(house.dashboard)
app.command("runs")(runs.runs)
app.command("show")(runs.show)
app.command("set")(change.set_)
app.command("set-many")(many.set_many)
app.command("schedule")(schedule.schedule)
app.command("schedules")(schedule.schedules)
app.command("rules")(rules.rules)
app.command("retain")(retain.retain)
app.command("watch")(watch.watch)
app.command("undo")(undo.undo)
app.command("events")(events.events)
app.command("audit")(audit.audit)
app.command("export")(export.export)
app.command("doctor")(doctor.doctor)
app.command("webhook-test")(webhook.webhook_test)
app.command("demo")(demo.demo)
app.add_typer(token.app, name="token")
