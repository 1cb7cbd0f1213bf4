"""`steadynorm up`, `server` and `dashboard`: start the long-running processes."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from steadynorm_cli.commands.options import Data, Host, Server
from steadynorm_cli.errors import CommandError
from steadynorm_cli.local_stack import DASHBOARD_PORT, LINK_HINT, LocalStack, dashboard_command
from steadynorm_cli.ports import is_free
from steadynorm_cli.stop_signals import Stopped, stop_signals
from steadynorm_contract.discovery import data_dir, find_server, find_token, is_loopback, listener_url
from steadynorm_dashboard.owner_link import make_link

Port = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, envvar="STEADYNORM_PORT", help="Port of the server. Default: 8470; 0: any free one."
    ),
]
DashboardPort = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port of the dashboard. Default: 8501; 0: any free one.")
]


def up(host: Host = "127.0.0.1", port: Port = None, dashboard_port: DashboardPort = None, data: Data = None) -> None:
    """Start Redis, server and dashboard. Ctrl-C stops them all."""
    folder = data or data_dir()
    try:
        with (
            stop_signals(),
            LocalStack(folder, host=host, port=port, dashboard_port=dashboard_port, on_message=typer.echo) as stack,
        ):
            typer.echo(_banner(stack))
            sys.stdout.flush()
            stack.wait()
    except Stopped:
        typer.echo("stopped: running jobs continue with their last settings")


def _banner(stack: LocalStack) -> str:
    lines = [
        "steadynorm is up. Ctrl-C stops it.",
        f"  dashboard  {stack.link()}",
        f"             {LINK_HINT}",
        f"  server     {stack.server}",
        f"  data       {stack.data}  (logs in {stack.logs})",
    ]
    if stack.data != data_dir().absolute():
        lines.append(f"  For training scripts and other shells: export STEADYNORM_HOME={shlex.quote(str(stack.data))}")
    return "\n".join(lines)


def server(
    host: Host = "127.0.0.1",
    port: Port = None,
    data: Data = None,
    tls_cert: Annotated[
        Path | None, typer.Option(envvar="STEADYNORM_TLS_CERT", help="PEM file with a certificate: serve TLS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="STEADYNORM_TLS_KEY", help="PEM file with its key.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, envvar="STEADYNORM_WORKERS", help="Server processes. Default: 1.")
    ] = None,
) -> None:
    """Start the server, with an embedded Redis unless REDIS_URL is set. Further variables: docs/deploying.md."""
    from steadynorm_server import config as configuration
    from steadynorm_server.errors import StartError
    from steadynorm_server.runtime import logging
    from steadynorm_server.runtime.serve import serve

    given: dict[str, Any] = {"host": host, "port": port, "data": data and data.expanduser().absolute()}
    given |= {"tls_cert": tls_cert, "tls_key": tls_key, "workers": workers}
    try:
        with stop_signals():  # uvicorn raises SIGTERM again after its shutdown, when Redis must still be stopped
            config = configuration.read(**{name: value for name, value in given.items() if value is not None})
            logging.configure(config.log, config.log_level)
            serve(config)
    except Stopped:
        pass
    except StartError as error:
        raise CommandError(str(error)) from None


def dashboard(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = DASHBOARD_PORT,
    server: Server = None,
    base_path: Annotated[
        str,
        typer.Option(
            envvar="STEADYNORM_DASHBOARD_BASE_PATH", help="Path under which a proxy offers the dashboard: /steadynorm."
        ),
    ] = "",
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A host name by which the dashboard may be called. May be repeated.")
    ] = None,
) -> None:
    """Start the dashboard of a running server, in the foreground."""
    argv = dashboard_command(host=host, port=port, server=server, base_path=base_path, allowed_hosts=allow_host or ())
    if not is_free(host, port):
        raise CommandError(
            f"port {port} on {host} is in use by another program, or by your dashboard already: `steadynorm link` "
            "tells. Choose another with --port."
        )
    address = server or find_server().server
    if (token := find_token(address)) is not None and is_loopback(address) and is_loopback(f"http://{host}"):
        front = listener_url(host, port) + (f"/{base_path.strip('/')}" if base_path.strip("/") else "")
        typer.echo(f"Sign in, once and within ten minutes: {make_link(front, token)}")
        sys.stdout.flush()
    os.execv(argv[0], argv)  # one process, so signals and exit status are the dashboard's own
