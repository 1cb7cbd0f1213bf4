"""Starts the dashboard: `python -m steadynorm_dashboard`, `steadynorm dashboard` and `steadynorm up` all use `command`.

Imports neither Streamlit nor plotly.

    subprocess.Popen(command(port=8501, server="http://127.0.0.1:8470"))
"""

from __future__ import annotations

import argparse
import http.client
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from steadynorm_contract.discovery import is_loopback

HEALTH_PATH = "/_stcore/health"
"""Answers 200 as soon as the dashboard accepts requests."""


def command(
    *,
    host: str = "127.0.0.1",
    port: int = 8501,
    server: str | None = None,
    base_path: str = "",
    allowed_hosts: Iterable[str] = (),
) -> list[str]:
    """Return the command that runs the dashboard in a process of its own.

    It carries no token, since any user of the machine can read a command line: see `data.session`.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        server: Address of the steadynorm server. None: `$STEADYNORM_SERVER`, else the one in the user's home folder.
        base_path: Path under which a proxy offers the dashboard and passes on, such as `/steadynorm`. Empty:
            `$STEADYNORM_DASHBOARD_BASE_PATH`, else none.
        allowed_hosts: Host names by which it may be called, beside that of `$STEADYNORM_DASHBOARD_URL`. Without any, a
            dashboard that listens beyond loopback may be called by every name.
    """
    base_path = (base_path or os.environ.get("STEADYNORM_DASHBOARD_BASE_PATH", "")).strip("/")
    names = [*allowed_hosts, *os.environ.get("STEADYNORM_DASHBOARD_HOSTS", "").replace(",", " ").split()]
    if public := urlsplit(os.environ.get("STEADYNORM_DASHBOARD_URL", "")).hostname:
        names.append(public)
    options = {
        "server.address": host,
        "server.port": str(port),
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "logger.hideWelcomeMessage": "true",  # it asks an external host for this machine's public address
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "type",
        "client.showSidebarNavigation": "false",
        "runner.magicEnabled": "false",
        "global.disableWidgetStateDuplicationWarning": "true",  # an address sets the state of widgets: `data.view`
        # A full garbage collection after each refreshed fragment, several per second and visitor, took most of the
        # process's time. Python's automatic collections stay on.
        "runner.postScriptGC": "false",
    }
    module = "steadynorm_dashboard.streamlit_process" if os.environ.get("STEADYNORM_TRUSTED_PROXY") else "streamlit"
    argv = [sys.executable, "-m", module, "run", str(Path(__file__).with_name("server.py"))]
    if base_path:
        options["server.baseUrlPath"] = base_path
    argv += [f"--{name}={value}" for name, value in options.items()]
    if names or is_loopback(f"http://{host}"):
        # A loopback dashboard gives its visitors the user's own token, so it must refuse requests by any other host
        # name: a web page could make its own name resolve to this machine (DNS rebinding).
        argv += [f"--server.allowedHosts={name}" for name in ("localhost", "127.0.0.1", "[::1]", *dict.fromkeys(names))]
    return argv + (["--", "--server", server] if server else [])


def link(dashboard: str, run_id: str | None = None, token: str | None = None) -> str:
    """A link to the runs overview, or to one run, with the token if there is one, as Jupyter prints them."""
    query = urlencode({name: value for name, value in (("run", run_id), ("token", token)) if value})
    return dashboard.rstrip("/") + "/" + (f"?{query}" if query else "")


def main(argv: Sequence[str] | None = None) -> None:
    """Become the dashboard's process: one process, so signals and the exit status are the dashboard's own."""
    parser = argparse.ArgumentParser(prog="python -m steadynorm_dashboard", description="Start the dashboard.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8501, help="port to listen on (default: %(default)s)")
    parser.add_argument("--server", help="address of the steadynorm server (default: $STEADYNORM_SERVER)")
    parser.add_argument("--base-path", default="", help="path under which a proxy offers the dashboard")
    parser.add_argument(
        "--allow-host", action="append", default=[], help="a host name by which it may be called; may be repeated"
    )
    parser.add_argument("--healthcheck", action="store_true", help="ask the running one whether it is alive, and exit")
    options = parser.parse_args(argv)
    if options.healthcheck:
        base = (options.base_path or os.environ.get("STEADYNORM_DASHBOARD_BASE_PATH", "")).strip("/")
        sys.exit(0 if _answers(options.port, f"/{base}{HEALTH_PATH}" if base else HEALTH_PATH) else 1)
    arguments = command(
        host=options.host, port=options.port, server=options.server,
        base_path=options.base_path, allowed_hosts=options.allow_host,
    )  # fmt: skip
    os.execv(arguments[0], arguments)


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
