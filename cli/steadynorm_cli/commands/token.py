"""`steadynorm token new`: makes a token and its entry for the server's tokens file."""

from __future__ import annotations

import hashlib
import secrets
from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.options import AsJson
from steadynorm_cli.errors import CommandError

ROLES = ("agent", "viewer", "operator")

app = typer.Typer(help="Tokens for a server with a tokens file.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `new` a subcommand: typer would merge the only one into the group."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the owner, as the audit list shows it.")],
    role: Annotated[str, typer.Option(help="agent, viewer or operator.")],
    runs: Annotated[
        list[str] | None,
        typer.Option(help='For agents: pattern of the run names that it is valid for, such as "gpt-*"; repeatable.'),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a new token and its entry for STEADYNORM_TOKENS_FILE, which holds only the token's digest."""
    if not name.strip() or len(name) > 100:
        raise CommandError(f"a token's name must have 1 to 100 characters: got {len(name.strip())}.", 2)
    if role not in ROLES:
        raise CommandError(f"a role must be one of {', '.join(ROLES)}: got {role!r}.", 2)
    if runs and role != "agent":
        raise CommandError(
            f"only tokens of agents can be bound to runs: got --runs for the role {role}. Leave --runs out.", 2
        )
    token = secrets.token_urlsafe(32)
    entry: dict[str, object] = {"name": name, "role": role, "sha256": hashlib.sha256(token.encode()).hexdigest()}
    if runs:
        entry["runs"] = runs
    if as_json:
        typer.echo(msgspec.json.encode({"token": token, "entry": entry}))
        return
    typer.echo("The token, shown only now and stored nowhere:", err=True)
    typer.echo(token)
    typer.echo("Its entry for the JSON list in STEADYNORM_TOKENS_FILE, which a running server reloads:", err=True)
    typer.echo(msgspec.json.encode(entry))
