"""Redis, server and dashboard as one process tree, for one user on one machine.

    with LocalStack(data=data_dir()) as stack:
        print(stack.server, stack.dashboard)
        stack.check()                       # raises CommandError with the end of the log if a process died

The server starts its own Redis. The dashboard is stopped first and the server last; if this process is killed, the
kernel ends both.
"""

import errno
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import urllib3

from steadynorm_cli.errors import CommandError
from steadynorm_cli.ports import choose_port
from steadynorm_contract.client import Client
from steadynorm_contract.discovery import listener_url, read_address
from steadynorm_dashboard import launch, owner_link
from steadynorm_server.runtime.process import ManagedProcess

SERVER_PORT = 8470
DASHBOARD_PORT = 8501
LINK_HINT = "(this link signs you in once, within ten minutes; `steadynorm link` prints another)"
START_S = 90.0  # a cold disk, a busy machine
_CONFIGURED_TOKENS = (
    "STEADYNORM_OPERATOR_TOKEN",
    "STEADYNORM_AGENT_TOKEN",
    "STEADYNORM_VIEWER_TOKEN",
    "STEADYNORM_TOKENS_FILE",
    "STEADYNORM_OPERATOR_TOKEN_FILE",
    "STEADYNORM_AGENT_TOKEN_FILE",
    "STEADYNORM_VIEWER_TOKEN_FILE",
)
"""With any of them set, the server accepts only those tokens, and not the one in the data folder."""


def dashboard_command(
    *, host: str, port: int, server: str | None, base_path: str = "", allowed_hosts: Sequence[str] = ()
) -> list[str]:
    """The command that runs the dashboard. Raises CommandError where Streamlit is not installed."""
    if importlib.util.find_spec("streamlit") is None:
        raise CommandError("the dashboard needs streamlit: pip install 'steadynorm[dashboard]'")
    return launch.command(host=host, port=port, server=server, base_path=base_path, allowed_hosts=allowed_hosts)


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        return urllib3.request("GET", url, timeout=2.0, retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


class LocalStack:
    """Server and dashboard, started on entry, stopped on exit. Raises CommandError when one does not start.

    Args:
        data: Folder of Redis' files, the token, server.json and the logs.
        host: Address to listen on.
        port: Of the server. None: 8470, or any free port where that is in use; 0: any free port.
        dashboard_port: Of the dashboard. None: 8501, or any free port where that is in use; 0: any free port.
        reuse_running: Use a server that already runs on this folder, and leave it running on exit. Otherwise that is
            an error.
        dashboard: Whether to start a dashboard.
        environ: Environment variables of server and dashboard.
        on_message: Called with messages for the user.
    """

    def __init__(
        self,
        data: Path,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        dashboard_port: int | None = None,
        reuse_running: bool = False,
        dashboard: bool = True,
        environ: Mapping[str, str] = os.environ,
        on_message: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.data = data.expanduser().absolute()
        self.logs = self.data / "logs"
        self._host = host
        self._port = port
        self._dashboard_port = dashboard_port
        self._reuse_running = reuse_running
        self._with_dashboard = dashboard
        self._environ = environ
        self._on_message = on_message
        self._children: list[ManagedProcess] = []
        self.server = ""
        self.dashboard = ""
        self.reused = False
        """Whether the server was already running."""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def environment(self) -> dict[str, str]:
        """Environment for processes that use this server, whatever server the present variables name."""
        surroundings = {**self._environ, "STEADYNORM_HOME": str(self.data)}
        surroundings.pop("STEADYNORM_SERVER", None)
        if not any(name in self._environ for name in _CONFIGURED_TOKENS):  # else the folder's token is not valid
            surroundings.pop("STEADYNORM_TOKEN", None)
        return surroundings

    def client(self) -> Client:
        """A client with the operator role."""
        if any(name in self._environ for name in _CONFIGURED_TOKENS):
            return Client(self.server, self._environ.get("STEADYNORM_OPERATOR_TOKEN"))
        return Client(self.server, (self.data / "token").read_text("ascii").strip())

    def link(self, run_id: str | None = None) -> str:
        """A link to the dashboard, or to a run's page, that signs its user in, once and within ten minutes.

        Where tokens are configured it signs nobody in.
        """
        if any(name in self._environ for name in _CONFIGURED_TOKENS) or not self.dashboard:
            return launch.link(self.dashboard, run_id)
        return owner_link.make_link(self.dashboard, (self.data / "token").read_text("ascii").strip(), run_id)

    def check(self) -> None:
        """Raises CommandError with the end of its log if server or dashboard ended."""
        for child in self._children:
            if child.returncode is not None:
                raise CommandError(f"the {child.name} ended with status {child.returncode}:\n{child.tail()}")

    def wait(self) -> None:
        """Block until a process ends, which raises as `check` does, or a signal raises."""
        while True:
            self.check()
            time.sleep(0.5)

    def close(self) -> None:
        """Stop what was started here: the dashboard first, the server with its Redis last."""
        while self._children:
            self._children[-1].end()
            self._children.pop()

    def _start(self) -> None:
        try:
            for folder in (self.data, self.logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        except OSError as error:
            raise CommandError(
                f"{error.filename} cannot be written: {error.strerror}. Name another folder for data, such as "
                "STEADYNORM_HOME=/tmp/steadynorm, or --data of `steadynorm up`."
            ) from None
        present = read_address(self.data)
        if present is not None and not answers(f"{present.server}/healthz"):
            present = None
        if present is not None and not self._reuse_running:
            where = f", its dashboard at {present.dashboard}" if present.dashboard else ""
            raise CommandError(
                f"a steadynorm server already runs on {self.data}: {present.server}{where}. "
                "Use it, stop it, or choose another folder with --data."
            )
        self.reused = present is not None
        port = 0 if present is not None else choose_port(self._host, self._port, SERVER_PORT, self._on_message)
        self.server = present.server if present is not None else listener_url(self._host, port)
        command: list[str] = []
        if present is not None and present.dashboard is not None:
            self.dashboard = present.dashboard
        elif self._with_dashboard:
            dashboard_port = choose_port(self._host, self._dashboard_port, DASHBOARD_PORT, self._on_message, taken=port)
            command = dashboard_command(host=self._host, port=dashboard_port, server=self.server)
            self.dashboard = listener_url(self._host, dashboard_port)
        if present is None:
            argv = [sys.executable, "-m", "steadynorm_cli", "server"]
            argv += ["--host", self._host, "--port", str(port), "--data", str(self.data)]
            links = {"STEADYNORM_DRAIN_SECONDS": "0"}  # no balancer is in front of it
            if self.dashboard:
                links["STEADYNORM_DASHBOARD_URL"] = self.dashboard
            self._start_child("server", argv, links, f"{self.server}/readyz")
        if command:
            self._start_child("dashboard", command, {}, self.dashboard + launch.HEALTH_PATH)

    def _start_child(self, name: str, argv: list[str], env: dict[str, str], health: str) -> None:
        self._children.append(
            ManagedProcess(name, argv, log=self.logs / f"{name}.log", env={**self.environment(), **env})
        )
        deadline = time.monotonic() + START_S
        while not answers(health):
            self.check()
            if time.monotonic() > deadline:
                raise CommandError(
                    f"the {name} does not answer at {health} after {START_S:.0f} s:\n{self._children[-1].tail()}"
                )
            time.sleep(0.05)
