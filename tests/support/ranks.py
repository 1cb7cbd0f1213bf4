"""Processes of a training with several ranks."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from tests.support.interpreter import Interpreter

PROGRAMS = Path(__file__).parents[1] / "agent" / "distributed"
START_S = 120.0  # of Python and torch, on a busy machine


class RunRanks(Protocol):
    """Type of the fixture `ranks`."""

    def __call__(self, world: int, scenario: str, **arguments: object) -> list[dict[str, Any]]: ...


@dataclass
class StartedRanks:
    """The processes of one scenario, behind the one that forks them, whose death ends them too."""

    folder: Path
    world: int
    pid: int
    pipe: int
    """Brings the exit status; at its end when all of them have ended."""

    def results(self, within_s: float = 120.0) -> list[dict[str, Any]]:
        """What each rank returned, in the order of ranks. Fails with the ranks' output if one fails or hangs."""
        if not self._readable(within_s):
            pytest.fail(f"the ranks hang:\n{self.output()}")
        assert os.read(self.pipe, 16) == b"0", self.output()
        return [json.loads((self.folder / f"{rank}.json").read_text()) for rank in range(self.world)]

    def output(self) -> str:
        """What all ranks have printed."""
        return (self.folder / "log").read_text()

    def end(self) -> None:
        """Kill those that run, and wait for them."""
        if not self._readable(0):
            os.kill(self.pid, signal.SIGKILL)
        while os.read(self.pipe, 16):
            pass
        os.close(self.pipe)

    def _readable(self, within_s: float) -> bool:
        return bool(select.select([self.pipe], [], [], within_s)[0])


class RankServer:
    """The process from which the ranks of all tests are forked."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests

    def start(
        self, folder: Path, world: int, program: str, scenario: str, arguments: dict[str, object]
    ) -> StartedRanks:
        """Start a scenario of a program in tests/agent/distributed, which leaves its results in `folder`."""
        folder.mkdir()
        request = {
            "command": [program, scenario, str(world), str(folder), json.dumps(arguments)],
            "environment": dict(os.environ),
            "folder": os.getcwd(),
        }
        pipe, ended = os.pipe()
        with (folder / "log").open("wb") as log:
            socket.send_fds(self._requests, [json.dumps(request).encode()], [log.fileno(), ended])
        os.close(ended)
        answer = self._requests.recv(16)
        assert answer, "tests/agent/distributed/rank_server.py has ended"
        return StartedRanks(folder, world, int(answer), pipe)


@contextmanager
def rank_server(python: Interpreter) -> Iterator[RankServer]:
    """The server, for as long as the block runs; `python` has imported torch for it."""
    name = f"steadynorm-ranks-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        listener.settimeout(START_S)
        program = python.start(str(PROGRAMS / "rank_server.py"), name)
        requests, _ = listener.accept()
    with requests:
        requests.settimeout(START_S)
        yield RankServer(requests)
    program.result()
