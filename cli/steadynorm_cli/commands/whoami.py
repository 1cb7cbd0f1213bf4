"""`steadynorm whoami`: whom the server takes you for, what you may do, and how much of your quota is used."""

import msgspec
import typer

from steadynorm_cli.commands.options import AsJson, Server
from steadynorm_cli.errors import plain
from steadynorm_contract.client import Client
from steadynorm_contract.tokens import Quota


def whoami(server: Server = None, as_json: AsJson = False) -> None:
    """Print whom the server takes you for: name, roles, runs, and how much of a quota is used."""
    client = Client(server)
    me = client.me()
    if as_json:
        typer.echo(msgspec.json.encode(me))
        return
    typer.echo(f"{plain(me.name)} at {client.server}: {', '.join(me.roles)}")
    if me.runs is not None:
        typer.echo(f"for runs named {', '.join(map(plain, me.runs))}")
    if isinstance(me.quota, Quota):
        has = me.quota
        typer.echo(f"has {_of(has.runs, has.max_runs, 'runs')}, and {_of(has.mib, has.max_mib, 'MiB')}, in Redis")


def _of(used: float | None, most: float | None, unit: str) -> str:
    shown = "an unknown number of" if used is None else f"{used:.1f}" if isinstance(used, float) else str(used)
    return f"{shown} {unit}" if most is None else f"{shown} of at most {most:g} {unit}"
