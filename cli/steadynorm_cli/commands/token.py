"""`steadynorm token new`: make a token and its entry for the server's tokens file."""

from __future__ import annotations

import hashlib
import secrets
from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.options import AsJson
from steadynorm_cli.errors import CommandError

__all__ = ["app"]

ROLES = ("agent", "viewer", "operator")

app = typer.Typer(help="Tokens of a server that has a tokens file.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Makes `new` a command of its own: typer would take the only one for the group."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose it is: the audit list shows this name.")],
    role: Annotated[str, typer.Option(help="agent, viewer or operator.")],
    runs: Annotated[
        list[str] | None,
        typer.Option(help='For agents: a pattern of run names that it is good for, as "gpt-*". May be repeated.'),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a new token, once, and the entry for STEADYNORM_TOKENS_FILE, which holds its digest only."""
    if not name.strip() or len(name) > 100:
        raise CommandError(f"a token's name must have 1 to 100 characters: got {len(name.strip())}.", 2)
    if role not in ROLES:
        raise CommandError(f"a role must be one of {', '.join(ROLES)}: got {role!r}.", 2)
    if runs and role != "agent":
        raise CommandError(f"only agents can be bound to runs: got --runs for the role {role}. Leave --runs out.", 2)
    token = secrets.token_urlsafe(32)
    entry: dict[str, object] = {"name": name, "role": role, "sha256": hashlib.sha256(token.encode()).hexdigest()}
    if runs:
        entry["runs"] = runs
    if as_json:
        typer.echo(msgspec.json.encode({"token": token, "entry": entry}))
        return
    typer.echo("The token, which is shown this once and kept nowhere:", err=True)
    typer.echo(token)
    typer.echo(
        "Its entry in the JSON list of STEADYNORM_TOKENS_FILE, which a running server reads by itself:", err=True
    )
    typer.echo(msgspec.json.encode(entry))
