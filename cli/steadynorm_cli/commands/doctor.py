"""`steadynorm doctor`: looks at the server, its store and this machine, and says what to mend."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from steadynorm_cli.commands.options import AsJson, Server, plain
from steadynorm_contract.client import Client
from steadynorm_contract.discovery import data_dir, is_loopback

__all__ = ["doctor"]


def doctor(
    server: Server = None,
    repository: Annotated[
        str | None,
        typer.Option(
            "--redis",
            envvar=["STEADYNORM_REDIS_URL", "REDIS_URL"],
            help="The store's address. Default: your own server's embedded one, if it runs.",
            show_envvar=True,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check server, version, token, clock and store, and say what to mend. Exit code 1 if a check fails."""
    from steadynorm_cli.health_checks import Verdict, examine_server, examine_store, judge_disk

    client = Client(server)
    findings = examine_server(client)
    data = data_dir()
    if is_loopback(client.server) and (disk := judge_disk(data)) is not None:
        findings.append(disk)
    embedded = data / "store" / "store.sock"
    if repository is None and is_loopback(client.server) and embedded.is_socket():
        repository = f"unix://{embedded}"
    if repository is not None:
        findings += examine_store(repository)
    if as_json:
        typer.echo(msgspec.json.encode({"server": client.server, "findings": findings}))
    else:
        width = max(len(each.check) for each in findings)
        for each in findings:
            mend = f" → {each.mend}" if each.mend else ""
            typer.echo(f"{each.verdict:<4}  {each.check:<{width}}  {plain(each.found)}{mend}")
        if repository is None:
            typer.echo("The store was not looked at: it is not in your home folder. Name it with --redis or REDIS_URL.")
    if any(each.verdict is Verdict.FAIL for each in findings):
        raise typer.Exit(1)
