"""`steadynorm retain`: shows and sets how much of Redis a run may use and how long it is stored."""

from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.options import AsJson, Run, Server, find_run
from steadynorm_cli.commands.outcome import CONFLICT, confirmed
from steadynorm_cli.commands.output import timestamp
from steadynorm_cli.errors import CommandError, plain
from steadynorm_contract.client import Client, Conflict
from steadynorm_contract.retention import Retention, RetentionLimits, RetentionUpdate

_DEFAULT = "default"


def retain(
    run: Run,
    max_mib: Annotated[str | None, typer.Option(metavar="N|default", help="MiB of Redis that the run may use.")] = None,
    keep_days: Annotated[
        str | None, typer.Option(metavar="N|default", help="Days without activity after which it is removed.")
    ] = None,
    reason: Annotated[str, typer.Option(help="The reason, stored with the change.")] = "",
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Print a run's retention limits, or set those that are given. Exit codes: 3 conflict, 7 unknown."""
    client = Client(server)
    run_id = find_run(client, run).run_id
    known = client.retention(run_id)
    if max_mib is not None or keep_days is not None:
        update = RetentionUpdate(
            max_mib=_limit("--max-mib", max_mib, known.own.max_mib),
            keep_days=_limit("--keep-days", keep_days, known.own.keep_days),
            reason=reason,
            revision=known.revision,
        )
        try:
            known = confirmed(lambda: client.set_retention(run_id, update))
        except Conflict as error:
            raise CommandError(f"nothing was changed: {error}", CONFLICT) from None
    if as_json:
        typer.echo(msgspec.json.encode(known))
        return
    _print(run_id, known)


def _limit(option: str, given: str | None, known: float | None) -> float | None:
    if given is None or given.lower() in (_DEFAULT, "null"):
        return known if given is None else None
    try:
        return float(given)
    except ValueError:
        wants_none = given.lower() in ("off", "none")
        advice = " To exempt a run, use a large number." if wants_none else ""
        raise CommandError(f"{option} must be a number or {_DEFAULT}: got {given!r}.{advice}", 2) from None


def _print(run_id: str, known: Retention) -> None:
    now, own = known.effective, known.own
    used = known.redis_bytes / 2**20
    typer.echo(
        f"{run_id} uses {used:.1f} of {now.max_mib:g} MiB{_origin(own.max_mib)}; the maximum is {known.ceiling_mib:g}"
    )
    kept = "for ever" if now.keep_days is None else f"for {now.keep_days:g} days after its last activity"
    typer.echo(f"it is stored {kept}{_origin(own.keep_days)}")
    if known.expires is not None:
        typer.echo(f"it will be removed at {timestamp(known.expires)} unless it is active before")
    elif now.keep_days is not None:
        typer.echo("it is paused, and is not removed until it resumes")
    for change in known.changes:
        why = f": {plain(change.reason)}" if change.reason else ""
        limits = f"{_limits(change.before)} → {_limits(change.after)}"
        typer.echo(f"  {timestamp(change.time)}  {limits} by {plain(change.actor)}{why}")


def _origin(own: float | None) -> str:
    return " (the server's default)" if own is None else ""


def _limits(limits: RetentionLimits) -> str:
    mib = _DEFAULT if limits.max_mib is None else f"{limits.max_mib:g} MiB"
    return f"{mib}, {_DEFAULT if limits.keep_days is None else f'{limits.keep_days:g} days'}"
