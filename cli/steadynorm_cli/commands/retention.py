"""`steadynorm retain`: what a run may take in the store and how long it is kept, shown and set."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.options import AsJson, Run, Server, find_run, plain
from steadynorm_cli.commands.set import CONFLICT
from steadynorm_cli.errors import CommandError
from steadynorm_contract.client import Client, Conflict
from steadynorm_contract.retention import Retention, RetentionLimits, RetentionUpdate

__all__ = ["retain"]

_DEFAULT = "default"


def retain(
    run: Run,
    max_mib: Annotated[
        str | None, typer.Option(metavar="N|default", help="MiB that the run may take in the store.")
    ] = None,
    keep_days: Annotated[
        str | None, typer.Option(metavar="N|default", help="Days of silence after which it is removed.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the change.")] = "",
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Print what a run may take and how long it is kept, or set it. What is not given stays. Exit code 3: conflict."""
    client = Client(server)
    run_id = find_run(client, run).run_id
    known = client.retention(run_id)
    if max_mib is not None or keep_days is not None:
        wanted = RetentionUpdate(
            max_mib=_value("--max-mib", max_mib, known.own.max_mib),
            keep_days=_value("--keep-days", keep_days, known.own.keep_days),
            reason=reason,
            revision=known.revision,
        )
        try:
            known = client.set_retention(run_id, wanted)
        except Conflict as error:
            raise CommandError(f"nothing was done: {error}", CONFLICT) from None
    if as_json:
        typer.echo(msgspec.json.encode(known))
        return
    _print(run_id, known)


def _value(option: str, given: str | None, known: float | None) -> float | None:
    if given is None or given == _DEFAULT:
        return known if given is None else None
    try:
        return float(given)
    except ValueError:
        raise CommandError(f"{option} must be a number or {_DEFAULT}: got {given!r}.", 2) from None


def _print(run_id: str, known: Retention) -> None:
    now, own = known.in_force, known.own
    taken = known.store_bytes / 2**20
    typer.echo(f"{run_id} takes {taken:.1f} MiB of {now.max_mib:g}{_whose(own.max_mib)}, at most {known.ceiling_mib:g}")
    kept = "for ever" if now.keep_days is None else f"{now.keep_days:g} days after it was last heard of"
    typer.echo(f"it is kept {kept}{_whose(own.keep_days)}")
    if known.expires is not None:
        typer.echo(f"it will be removed at {_at(known.expires)}, if it is not heard of before")
    elif now.keep_days is not None:
        typer.echo("it is paused: for as long it is not removed")
    for change in known.changes:
        why = f": {plain(change.reason)}" if change.reason else ""
        told = f"{_told(change.before)} → {_told(change.after)} by {plain(change.actor)}{why}"
        typer.echo(f"  {_at(change.time)}  {told}")


def _whose(own: float | None) -> str:
    return " (the server's default)" if own is None else ""


def _told(kept: RetentionLimits) -> str:
    mib = _DEFAULT if kept.max_mib is None else f"{kept.max_mib:g} MiB"
    return f"{mib}, {_DEFAULT if kept.keep_days is None else f'{kept.keep_days:g} days'}"


def _at(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%SZ}"
