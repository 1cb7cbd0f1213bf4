"""`steadynorm token new`: makes a token and its entry for the server's tokens file."""

import hashlib
import secrets
from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.help import Command, Group
from steadynorm_cli.commands.options import AsJson
from steadynorm_cli.errors import CommandError

ROLES = ("agent", "viewer", "operator", "proposer")

app = typer.Typer(cls=Group, help="Tokens for a server with a tokens file.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `new` a subcommand: typer would merge the only one into the group."""


@app.command(cls=Command)
def new(
    name: Annotated[str, typer.Argument(help="Name of the owner, as the audit list shows it.")],
    role: Annotated[str, typer.Option(help="agent, viewer, operator or proposer.")],
    runs: Annotated[
        list[str] | None,
        typer.Option(help='Pattern of the names of the runs that it is valid for, such as "gpt-*"; repeatable.'),
    ] = None,
    max_runs: Annotated[
        int | None,
        typer.Option(min=1, help="For an agent: the most runs in Redis; further ones are refused."),
    ] = None,
    max_mib: Annotated[
        float | None, typer.Option(min=1, help="For an agent: MiB that its runs may take before new ones are refused.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="For a proposer: changes that need no approval, as JSON: "
            '{"settings": {"gamma2": {"min": 0.9, "max": 0.9999}}, "changes_a_day": 5}.'
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a new token and its entry for STEADYNORM_TOKENS_FILE, which holds only the token's digest."""
    if not name.strip() or len(name) > 100:
        raise CommandError(f"a token's name must have 1 to 100 characters: got {len(name.strip())}.", 2)
    if role not in ROLES:
        raise CommandError(f"a role must be one of {', '.join(ROLES)}: got {role!r}.", 2)
    if role != "agent" and (max_runs or max_mib):
        raise CommandError(f"--max-runs and --max-mib are for agents, who register runs: got role {role}.", 2)
    if budget is not None and role != "proposer":
        raise CommandError(f"--budget is for proposers: got role {role}.", 2)
    token = secrets.token_urlsafe(32)
    entry: dict[str, object] = {"name": name, "role": role, "sha256": hashlib.sha256(token.encode()).hexdigest()}
    if runs:
        entry["runs"] = runs
    entry |= {name: value for name, value in (("max_runs", max_runs), ("max_mib", max_mib)) if value}
    if budget is not None:
        try:
            entry["budget"] = msgspec.json.decode(budget)
        except msgspec.DecodeError as error:
            raise CommandError(f"--budget must be JSON: {error}.", 2) from None
    if as_json:
        typer.echo(msgspec.json.encode({"token": token, "entry": entry}))
        return
    typer.echo("The token, shown only now and stored nowhere:", err=True)
    typer.echo(token)
    typer.echo("Its entry for the JSON list in STEADYNORM_TOKENS_FILE, which a running server reloads:", err=True)
    typer.echo(msgspec.json.encode(entry))
