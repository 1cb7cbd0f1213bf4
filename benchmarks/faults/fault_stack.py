"""Servers of the faults, and what came of a run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from steady_agents import Fleet

from steadynorm_contract.client import Client, ClientError
from steadynorm_server.runtime.process import die_with_parent

__all__ = ["OPERATOR", "Outcome", "Server", "compare", "folder", "server"]

AGENT, OPERATOR = "agent-token-of-the-faults", "operator-token-of-the-faults"


@dataclass
class Outcome:
    """figures: to print. broken: promises that did not hold."""

    figures: dict[str, object] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def told(self) -> dict[str, object]:
        """As printed."""
        return {**self.figures, "broken": self.broken}

    def require(self, holds: bool, promise: str) -> None:
        """Note a promise that does not hold."""
        if not holds:
            self.broken.append(promise)


@dataclass
class Server:
    """A server's process."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.address.removeprefix("http://").partition(":")
        return host, int(port)

    def client(self) -> Client:
        """An operator's."""
        return Client(self.address, OPERATOR)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def descriptors(self) -> int:
        """Open files."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def memory_mb(self) -> float:
        """Resident now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1000


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """For all files of a run."""
    with tempfile.TemporaryDirectory(prefix="steadynorm-faults-") as made:
        yield Path(made)


@contextlib.contextmanager
def server(
    home: Path,
    redis_url: str | None = None,
    *,
    port: int = 0,
    program: Sequence[str] = ("-m", "steadynorm_cli"),
    **variables: str,
) -> Iterator[Server]:
    """A running server; without a redis_url with an embedded one. program: what is run in place of the command."""
    home.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STEADYNORM_", "REDIS_"))}
    environment |= {"STEADYNORM_OPERATOR_TOKEN": OPERATOR, "STEADYNORM_AGENT_TOKEN": AGENT}
    environment["STEADYNORM_HOME"] = str(home)
    environment |= ({"REDIS_URL": redis_url} if redis_url else {}) | variables
    log = home / "server.log"
    began = log.stat().st_size if log.exists() else 0
    with log.open("ab") as written:
        command = [sys.executable, *program, "server", "--port", str(port)]
        with_us = partial(die_with_parent, os.getpid())
        process = subprocess.Popen(command, env=environment, stdout=written, stderr=written, preexec_fn=with_us)
    try:
        while b"steadynorm server at " not in (said := log.read_bytes()[began:]):
            if process.poll() is not None:
                raise SystemExit(f"the server ended: {said.decode()}")
            time.sleep(0.05)
        address = said.partition(b"steadynorm server at ")[2].split()[0].decode()
        yield Server(process, address, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def compare(outcome: Outcome, fleet: Fleet, client: Client) -> None:
    """Whether each step that was acknowledged is stored, once, and no run is missing."""
    lost = twice = 0
    for run_id, steps in fleet.steps().items():
        try:
            stored = client.run(run_id).counters.steps
        except ClientError:
            stored = 0
        lost, twice = lost + max(0, steps - stored), twice + max(0, stored - steps)
    outcome.figures |= {"steps_acknowledged": sum(fleet.steps().values()), "steps_lost": lost, "steps_twice": twice}
    outcome.require(lost == 0, f"{lost} acknowledged steps are not there")
    outcome.require(twice == 0, f"{twice} steps are there twice")


def count_errors(outcome: Outcome, servers: Sequence[Server]) -> None:
    """Tracebacks in the servers' logs."""
    text = "".join(each.log.read_text("utf-8", "replace") for each in servers)
    outcome.figures["tracebacks"] = text.count("Traceback (most recent call last)")
    outcome.require("Traceback" not in text, "a server's log has a traceback")
