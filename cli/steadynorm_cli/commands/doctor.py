"""`steadynorm doctor`: checks the server, its Redis and this machine, and says what to fix."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from urllib3.util import parse_url

from steadynorm_cli.commands.options import AsJson, Server, find_run
from steadynorm_cli.errors import plain
from steadynorm_contract.client import Client
from steadynorm_contract.discovery import data_dir, is_loopback, own_server


def doctor(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="Also what the agent of this run found out about its training loop."),
    ] = None,
    server: Server = None,
    redis: Annotated[
        str | None,
        typer.Option(
            envvar=["STEADYNORM_REDIS_URL", "REDIS_URL"],
            help="Address of the server's Redis. Default: the embedded one of your own server, if it is running.",
            show_envvar=True,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check server, version, token, clock, Redis and a run, and say what to fix. Exit code 1 if a check fails."""
    from steadynorm_cli.health_checks import Verdict, check_disk, check_redis, check_run, check_server

    client = Client(server)
    checks = check_server(client)
    own = own_server()
    if own is not None and not _is_same(own.server, client.server):
        own = None
    data = data_dir() if own is None else Path(own.data)
    if is_loopback(client.server) and (disk := check_disk(data)) is not None:
        checks.append(disk)
    embedded = data / "redis" / "redis.sock"
    if redis is None and own is not None and embedded.is_socket():
        redis = f"unix://{embedded}"
    if redis is not None:
        checks += check_redis(redis)
    if run is not None and not any(each.verdict is Verdict.FAIL for each in checks):
        checks += check_run(client.run(find_run(client, run).run_id))
    if as_json:
        typer.echo(msgspec.json.encode({"server": client.server, "checks": checks}))
    else:
        width = max(len(each.check) for each in checks)
        for each in checks:
            fix = f" → {each.fix}" if each.fix else ""
            typer.echo(f"{each.verdict:<4}  {each.check:<{width}}  {plain(each.detail)}{fix}")
        if redis is None:
            why = "it has no embedded one" if own is not None else f"no server of yours runs at {client.server}"
            typer.echo(f"Redis was not checked: {why}. Give its address with --redis or REDIS_URL.")
    if any(each.verdict is Verdict.FAIL for each in checks):
        raise typer.Exit(1)


def _is_same(own: str, server: str) -> bool:
    """Whether two addresses, the first on loopback, are of one server, by whichever name of this machine."""
    return is_loopback(server) and parse_url(own).port == parse_url(server).port
