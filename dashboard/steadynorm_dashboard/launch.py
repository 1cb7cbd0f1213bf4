"""How the dashboard is started, by `steadynorm up` and `steadynorm dashboard`. Imports neither Streamlit nor plotly.

subprocess.Popen(command(port=8501, server="http://127.0.0.1:8470"))
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlencode

from steadynorm_contract.discovery import is_loopback

__all__ = ["HEALTH_PATH", "command", "link"]

HEALTH_PATH = "/_stcore/health"
"""Answers 200 as soon as the dashboard serves."""


def command(*, host: str = "127.0.0.1", port: int = 8501, server: str | None = None) -> list[str]:
    """The argument vector that runs the dashboard in a process of its own.

    server: address of the steadynorm server; None: `$STEADYNORM_SERVER` as inherited, else the user's own.
    No token travels here, where any user of the machine could read it: visitors bring theirs, see `session`.
    """
    options = {
        "server.address": host,
        "server.port": str(port),
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "logger.hideWelcomeMessage": "true",  # it asks a foreign host for this machine's public address
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "type",
        "client.showSidebarNavigation": "false",
        "runner.magicEnabled": "false",
        # A full collection after each refreshed part of a page, several a second and a visitor, was most of what the
        # process did. Python's own collections go on.
        "runner.postScriptGC": "false",
    }
    argv = [sys.executable, "-m", "streamlit", "run", str(Path(__file__).with_name("server.py"))]
    argv += [f"--{name}={value}" for name, value in options.items()]
    if is_loopback(f"http://{host}"):
        # A loopback dashboard lends the user's own token to its visitors. A web page whose name was made to resolve to
        # this machine must not become one of them.
        argv += [f"--server.allowedHosts={name}" for name in ("localhost", "127.0.0.1", "[::1]")]
    return argv + (["--", "--server", server] if server else [])


def link(dashboard: str, run_id: str | None = None, token: str | None = None) -> str:
    """A link to the list of runs, or to one run, as Jupyter prints them: with the token where there is one."""
    query = {"run": run_id, "token": token}
    given = urlencode({name: value for name, value in query.items() if value})
    return dashboard.rstrip("/") + "/" + (f"?{given}" if given else "")
