"""`steadynorm up`, `server` and `dashboard`: what listens."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from steadynorm_cli.commands.options import Data, Host, Server
from steadynorm_cli.errors import CommandError
from steadynorm_cli.local_stack import DASHBOARD_PORT, LocalStack, Stopped, launcher, stop_signals
from steadynorm_contract.discovery import data_dir

__all__ = ["dashboard", "server", "up"]

Port = Annotated[
    int | None,
    typer.Option(min=0, max=65535, envvar="STEADYNORM_PORT", help="Of the server. Default: 8470; 0: any free one."),
]
DashboardPort = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Of the dashboard. Default: 8501; 0: any free one.")
]


def up(
    host: Host = "127.0.0.1",
    port: Port = None,
    dashboard_port: DashboardPort = None,
    data: Data = None,
) -> None:
    """Start store, server and dashboard. One Ctrl-C ends them all."""
    folder = data or data_dir()
    try:
        with stop_signals():
            house = LocalStack(folder, host=host, port=port, dashboard_port=dashboard_port, tell=typer.echo)
            with house:
                typer.echo(_banner(house))
                sys.stdout.flush()
                house.wait()
    except Stopped:
        typer.echo("ended: runs that are training go on with their last settings")


def _banner(house: LocalStack) -> str:
    lines = [
        "steadynorm is up. Ctrl-C ends all of it.",
        f"  dashboard  {house.dashboard}",
        f"  server     {house.server}",
        f"  data       {house.data}  (logs in {house.logs})",
    ]
    if house.data != data_dir().absolute():
        lines.append(f"  For training scripts and other shells: export STEADYNORM_HOME={house.data}")
    return "\n".join(lines)


def server(
    host: Host = "127.0.0.1",
    port: Port = None,
    data: Data = None,
    tls_cert: Annotated[
        Path | None, typer.Option(envvar="STEADYNORM_TLS_CERT", help="PEM file: speak TLS with this certificate.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="STEADYNORM_TLS_KEY", help="PEM file: its key.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, envvar="STEADYNORM_WORKERS", help="Processes that serve. Default: 1.")
    ] = None,
) -> None:
    """Start the server with its store, in the foreground. Also configured by variables: docs/operations.md."""
    from pydantic import ValidationError

    from steadynorm_server.config import ServerConfig
    from steadynorm_server.runtime import logging
    from steadynorm_server.runtime.serve import ServeError, serve

    given: dict[str, Any] = {"host": host, "port": port, "data": data and data.expanduser().absolute()}
    given |= {"tls_cert": tls_cert, "tls_key": tls_key, "workers": workers}
    try:
        with (
            stop_signals()
        ):  # uvicorn raises SIGTERM again when it has shut down: the store must still be ended in order
            settings = ServerConfig(**{name: value for name, value in given.items() if value is not None})
            logging.configure(settings.log, settings.log_level)
            serve(settings)
    except Stopped:
        pass
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise CommandError(f"the server's configuration is wrong: {problems}") from None
    except ServeError as error:
        raise CommandError(str(error)) from None


def dashboard(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="To listen on.")] = DASHBOARD_PORT,
    server: Server = None,
) -> None:
    """Start the dashboard, in the foreground, for a server that runs already."""
    argv: list[str] = launcher().command(host=host, port=port, server=server)
    os.execv(argv[0], argv)  # one process, so signals and exit status are the dashboard's own
