"""`steadynorm set-many`: one change to many runs, shown before it is made and told run by run."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from steadynorm_cli.commands.options import AsJson, Server, console, plain
from steadynorm_cli.commands.set import CONFLICT, parse_unresolved
from steadynorm_cli.errors import CommandError
from steadynorm_contract.bulk import Bulk, BulkOutcome, BulkResponse, BulkRow, Selection
from steadynorm_contract.client import Client

__all__ = ["set_many"]

_STYLE = {
    BulkOutcome.CHANGE: "bold",
    BulkOutcome.CHANGED: "green",
    BulkOutcome.CONFLICT: "yellow",
    BulkOutcome.NOT_FOUND: "yellow",
    BulkOutcome.REJECTED: "red",
    BulkOutcome.UNKNOWN: "bold red",
}


def set_many(
    changes: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE...", help="Such as gamma2=0.99 mode=observe reset_generation=+1")
    ],
    name: Annotated[str | None, typer.Option(help="A pattern of run names, such as gpt-*; * is every run.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only runs with this tag; may be repeated.")
    ] = None,
    run_id: Annotated[list[str] | None, typer.Option("--run", help="A run's id; may be repeated.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it stands in each run's audit list.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Change settings of all selected runs, after a look at the preview. Exit code 3: some run moved meanwhile."""
    if name is None and not tag and not run_id:
        raise CommandError('say which runs: --name, --tag or --run. --name "*" is every run.', 2)
    wanted = Bulk(
        select=Selection(name=name, tags=_tags(tag or []), run_ids=run_id or None),
        settings=parse_unresolved(changes),
        reason=reason,
    )
    client = Client(server)
    preview = client.bulk_change(wanted)
    if not preview.revisions or not yes:
        _tell(preview, as_json)
    if not preview.revisions:
        if not as_json:
            typer.echo("none of these runs would change" if preview.runs else "no run matches: see `steadynorm runs`")
        return
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise CommandError(f"nothing was changed: say --yes to change {_runs(len(preview.revisions))} unasked.", 2)
        typer.confirm(f"Change {_runs(len(preview.revisions))}?", abort=True)
    done = client.bulk_change(msgspec.structs.replace(wanted, dry_run=False, revisions=preview.revisions))
    _tell(done, as_json)
    unknown = [row for row in done.runs if row.outcome is BulkOutcome.UNKNOWN]
    missed = [row for row in done.runs if row not in unknown and _missed(row, preview)]
    if unknown:
        raise CommandError(
            f"the store did not answer for {_runs(len(unknown))}, which may be changed or not: {_shown(unknown)}. "
            "Look again with `steadynorm show`, then repeat the command for what is left"
            + (f". {_runs(len(missed))} moved and stayed: {_shown(missed)}." if missed else ".")
        )
    if missed:
        left = "was left as it is" if len(missed) == 1 else "were left as they are"
        raise CommandError(
            f"{_runs(len(missed))} moved between the preview and the change, and {left}: {_shown(missed)}. Look again.",
            CONFLICT,
        )
    if not as_json:
        typer.echo(f"changed {_runs(len(preview.revisions))}; each job applies it at its next step")


def _missed(row: BulkRow, preview: BulkResponse) -> bool:
    """Whether a run is not as the preview promised: somebody changed, ended or deleted it, or it came in between."""
    if row.run_id not in preview.revisions:
        return row.outcome is BulkOutcome.CONFLICT
    return row.outcome not in (BulkOutcome.CHANGED, BulkOutcome.UNCHANGED)


def _shown(rows: list[BulkRow]) -> str:
    return ", ".join(row.run_id for row in rows[:5]) + (" ..." if len(rows) > 5 else "")


def _tags(texts: list[str]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CommandError(f"--tag must be KEY=VALUE: got {text!r}. Such as --tag team=nlp.", 2)
        if tags.setdefault(key, value) != value:
            raise CommandError(f"--tag {key} is given with two values, and no run has both.", 2)
    return tags


def _tell(answer: BulkResponse, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(answer))
        return
    if not answer.runs:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("RUN", "NAME", "OUTCOME"):
        table.add_column(column, no_wrap=True)
    table.add_column("REVISION", justify="right", no_wrap=True)
    table.add_column("CHANGE")
    for row in answer.runs:
        style = _STYLE.get(row.outcome, "dim")
        revision = "" if row.revision is None else str(row.revision)
        cells = (escape(plain(row.run_id)), escape(plain(row.name)), f"[{style}]{row.outcome}[/{style}]", revision)
        table.add_row(*cells, escape(plain(_what(row))))
    console().print(table)


def _what(row: BulkRow) -> str:
    if row.why:
        return row.why
    return ", ".join(f"{name} {_json(row.before.get(name))} → {_json(value)}" for name, value in row.after.items())


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode().strip('"')


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
