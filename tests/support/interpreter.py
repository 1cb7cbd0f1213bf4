"""Programs of their own, forked from a process that has imported torch, which takes longer than most of them run."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

SERVER = Path(__file__).with_name("fork_server.py")
COMMANDS = ("steadynorm_cli.main", "steadynorm_cli.commands", "rich.console", "rich.table")
TORCH = ("torch._dynamo", "steadynorm.agent")  # every optimizer's first step imports the former, for seconds


@dataclass
class Program:
    """A program that runs."""

    arguments: tuple[str, ...]
    pid: int
    ended: int
    """Brings the exit status."""
    stdout: IO[bytes]
    stderr: IO[bytes]

    def result(self, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` returns it. Kills it and raises TimeoutExpired if it does not end."""
        in_time = select.select([self.ended], [], [], timeout_s)[0]
        if not in_time:
            os.kill(self.pid, signal.SIGKILL)
        status = int(os.read(self.ended, 16))
        os.close(self.ended)
        outputs = []
        for stream in (self.stdout, self.stderr):
            with stream:
                stream.seek(0)
                outputs.append(stream.read().decode())
        if not in_time:
            raise subprocess.TimeoutExpired(self.arguments, timeout_s, *outputs)
        return subprocess.CompletedProcess(self.arguments, status, *outputs)


class Interpreter:
    """Starts programs as `sys.executable` would: `-m MODULE`, `-c CODE` or a file, after `-W ignore` or not."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._lock = threading.Lock()

    def start(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        modules: tuple[str, ...] = TORCH,
    ) -> Program:
        """Start a program. modules: imported before, once for all programs, in the environment of the tests."""
        request = {
            "arguments": arguments,
            "environment": dict(os.environ if env is None else env),
            "folder": str(cwd or Path.cwd()),
            "modules": modules,
        }
        pipe, ended = os.pipe()
        stdout, stderr = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 # result() closes them
        with ExitStack() as ours, open(os.devnull, "rb") as stdin:
            ours.callback(os.close, ended)
            descriptors = [stdin.fileno(), stdout.fileno(), stderr.fileno(), ended]
            with self._lock:
                socket.send_fds(self._requests, [json.dumps(request).encode()], descriptors)
                answer = self._requests.recv(16)
        assert answer, f"{SERVER} has ended"
        return Program(arguments, int(answer), pipe, stdout, stderr)

    def run(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        modules: tuple[str, ...] = TORCH,
        timeout_s: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program, as `subprocess.run` does."""
        return self.start(*arguments, env=env, cwd=cwd, modules=modules).result(timeout_s)


@contextmanager
def _forking() -> Iterator[Interpreter]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(300.0)
    with ours:
        with theirs:
            environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
            command = [sys.executable, str(SERVER), str(theirs.fileno())]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        yield Interpreter(ours)
    process.wait()


@pytest.fixture(scope="session")
def python() -> Iterator[Interpreter]:
    """python.run("-c", "import torch; ...") -> what the program did, in a process of its own."""
    with _forking() as interpreter:
        yield interpreter


@pytest.fixture(scope="session")
def python_without_torch() -> Iterator[Interpreter]:
    """The same for programs that do without: what has torch loaded says at its end what Triton leaked."""
    with _forking() as interpreter:
        yield interpreter
