"""The commands of `steadynorm`, one file each. Needs typer and rich; everything else is imported when needed."""

from collections.abc import Callable
from typing import Annotated

import typer

from steadynorm_cli.commands import (
    audit,
    backup,
    demo,
    doctor,
    events,
    export,
    healthcheck,
    lifecycle,
    link,
    mcp,
    note,
    proposals,
    retention,
    rollback,
    rules,
    runs,
    schedules,
    serve,
    set_many,
    show,
    token,
    undo,
    watch,
    webhook_test,
    whoami,
)
from steadynorm_cli.commands import set as set_command
from steadynorm_cli.commands.help import Command, Group
from steadynorm_contract import __version__

app = typer.Typer(
    cls=Group,
    help="Watch and stabilize a training run's gradient norms, and change its settings while it runs.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
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


_SERVE = "Run a server"
_panels: dict[str, tuple[Callable[..., None], ...]] = {
    "Start": (serve.up, serve.server, serve.dashboard, demo.demo),
    "Look": (runs.runs, show.show, watch.watch, events.events, audit.audit, note.notes, export.export,
             rollback.recovery, whoami.whoami, link.link, mcp.mcp),
    "Change": (
        set_command.set_, set_many.set_many, undo.undo, schedules.schedule, schedules.schedules, rules.rules, note.note,
        proposals.proposals, rollback.rollback, retention.retain,
    ),
    "Archive and delete": (
        lifecycle.archive, lifecycle.unarchive, lifecycle.rename, lifecycle.delete, lifecycle.restore,
    ),
    _SERVE: (backup.backup, doctor.doctor, healthcheck.healthcheck, webhook_test.webhook_test),
}  # fmt: skip
for _panel, _commands in _panels.items():
    for _command in _commands:
        app.command(_command.__name__.rstrip("_").replace("_", "-"), cls=Command, rich_help_panel=_panel)(_command)
app.add_typer(token.app, name="token", rich_help_panel=_SERVE)
