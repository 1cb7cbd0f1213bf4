"""`steadynorm set-many`: a bulk settings change, with a preview and an outcome for each run."""

import sys
from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from steadynorm_cli.commands.options import AsJson, Changes, Reason, Server
from steadynorm_cli.commands.outcome import CONFLICT, NOT_DONE, confirmed
from steadynorm_cli.commands.output import change, console, table, tell
from steadynorm_cli.commands.set import parse_changes
from steadynorm_cli.errors import CommandError, plain
from steadynorm_contract.bulk import Bulk, BulkOutcome, BulkResponse, BulkRow, Selection
from steadynorm_contract.client import Client
from steadynorm_contract.words import counted

_STYLE = {
    BulkOutcome.CHANGE: "bold",
    BulkOutcome.CHANGED: "green",
    BulkOutcome.CONFLICT: "yellow",
    BulkOutcome.NOT_FOUND: "yellow",
    BulkOutcome.REJECTED: "red",
    BulkOutcome.UNKNOWN: "bold red",
}


def set_many(
    changes: Changes,
    name: Annotated[str | None, typer.Option(help="Pattern of run names, such as gpt-*; * selects every run.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only runs with this tag; repeatable.")
    ] = None,
    run_id: Annotated[list[str] | None, typer.Option("--run", help="Id of a run; repeatable.")] = None,
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")] = False,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Bulk change of the selected runs, after a preview. Exit codes: 3 a run changed since the preview, 7 unknown."""
    if name is None and not tag and not run_id:
        raise CommandError('missing --name, --tag or --run. --name "*" selects every run.', 2)
    wanted = Bulk(
        select=Selection(name=name, tags=_tags(tag or []), run_ids=run_id or None),
        settings=parse_changes(changes),
        reason=reason,
    )
    client = Client(server)
    preview = client.bulk_change(wanted)
    if not preview.revisions or not yes:
        _print(preview, as_json)
    if not preview.revisions:
        if not as_json:
            tell("none of these runs would change" if preview.runs else "no run matches: see `steadynorm runs`")
        return
    if not yes:
        if as_json or not sys.stdin.isatty():
            runs = counted(len(preview.revisions), "run")
            raise CommandError(f"nothing was changed: use --yes to change {runs} without confirmation.", 2)
        typer.confirm(f"Change {counted(len(preview.revisions), 'run')}?", abort=True)
    change_them = msgspec.structs.replace(wanted, dry_run=False, revisions=preview.revisions)
    done = confirmed(lambda: client.bulk_change(change_them))
    _print(done, as_json)
    unknown = [row for row in done.runs if row.outcome is BulkOutcome.UNKNOWN]
    not_made = [row for row in done.runs if row.outcome is BulkOutcome.CHANGE]
    missed = [row for row in done.runs if row not in unknown and row not in not_made and _missed(row, preview)]
    skipped = (
        f"{counted(len(missed), 'run')} changed after the preview and {'was' if len(missed) == 1 else 'were'} skipped"
    )
    if unknown:
        raise CommandError(
            f"Redis did not answer for {counted(len(unknown), 'run')}, which may have been changed: {_ids(unknown)}. "
            "Check with `steadynorm show`, then repeat the command for the others."
            + (f" {skipped}: {_ids(missed)}." if missed else "")
        )
    if not_made:
        skipped = f" {skipped}: {_ids(missed)}." if missed else ""
        raise CommandError(
            f"{counted(len(not_made), 'run')} not changed: {_ids(not_made)}.{skipped} Repeat the command.", NOT_DONE
        )
    if missed:
        raise CommandError(f"{skipped}: {_ids(missed)}. Repeat the command for a new preview.", CONFLICT)
    if not as_json:
        typer.echo(f"changed {counted(len(preview.revisions), 'run')}; each job applies the change at its next step")


def _missed(row: BulkRow, preview: BulkResponse) -> bool:
    """Whether the outcome differs from the preview: the run was changed, ended, deleted or added meanwhile."""
    if row.run_id not in preview.revisions:
        return row.outcome is BulkOutcome.CONFLICT
    return row.outcome not in (BulkOutcome.CHANGED, BulkOutcome.UNCHANGED)


def _ids(rows: list[BulkRow]) -> str:
    return ", ".join(row.run_id for row in rows[:5]) + (" ..." if len(rows) > 5 else "")


def _tags(texts: list[str]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CommandError(f"--tag must be KEY=VALUE: got {text!r}. For example --tag team=nlp.", 2)
        if tags.setdefault(key, value) != value:
            raise CommandError(f"--tag {key} has two values, and no run has both. Leave one out.", 2)
    return tags


def _print(answer: BulkResponse, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(answer))
        return
    if not answer.runs:
        return
    columns = ("RUN", "NAME", "OUTCOME", "REVISION", "CHANGE")
    listed = table(*columns, fixed=("RUN", "NAME", "OUTCOME"), right=("REVISION",))
    for row in answer.runs:
        style = _STYLE.get(row.outcome, "dim")
        revision = "" if row.revision is None else str(row.revision)
        cells = (escape(plain(row.run_id)), escape(plain(row.name)), f"[{style}]{row.outcome}[/{style}]", revision)
        listed.add_row(*cells, escape(plain(row.why or change(row.before, row.after))))
    console().print(listed)
