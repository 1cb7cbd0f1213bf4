"""Starts the dashboard: `python -m steadynorm_dashboard`, `steadynorm dashboard` and `steadynorm up` all use `command`.

Imports neither Streamlit nor plotly.

    subprocess.Popen(command(port=8501, server="http://127.0.0.1:8470"))
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from steadynorm_contract.discovery import is_loopback

HEALTH_PATH = "/_stcore/health"
"""Answers 200 as soon as the dashboard accepts requests."""


def command(*, host: str = "127.0.0.1", port: int = 8501, server: str | None = None) -> list[str]:
    """Return the command that runs the dashboard in a process of its own.

    It carries no token, since any user of the machine can read a command line: see `data.session`.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        server: Address of the steadynorm server. None: `$STEADYNORM_SERVER`, else the one in the user's home folder.
    """
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
        # A full garbage collection after each refreshed fragment, several per second and visitor, took most of the
        # process's time. Python's automatic collections stay on.
        "runner.postScriptGC": "false",
    }
    argv = [sys.executable, "-m", "streamlit", "run", str(Path(__file__).with_name("server.py"))]
    argv += [f"--{name}={value}" for name, value in options.items()]
    if is_loopback(f"http://{host}"):
        # A loopback dashboard gives its visitors the user's own token, so it must refuse requests by any other host
        # name: a web page could make its own name resolve to this machine (DNS rebinding).
        argv += [f"--server.allowedHosts={name}" for name in ("localhost", "127.0.0.1", "[::1]")]
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
    options = parser.parse_args(argv)
    arguments = command(host=options.host, port=options.port, server=options.server)
    os.execv(arguments[0], arguments)
