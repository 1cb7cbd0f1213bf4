"""What Windows lacks, and macOS in part, is not needed. Simulated: the functions are deleted in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.agent import StubServer

PROGRAM = """
import logging, multiprocessing, os, signal, socket, sys, tempfile, uuid
import msgspec, torch, urllib3

# Loaded before, since their own Linux versions may need what is deleted here.
for module, names in {
    os: "fork forkpty register_at_fork getuid geteuid getgid getegid setsid killpg getpgid sched_getaffinity uname",
    signal: "SIGKILL SIGHUP SIGALRM SIGUSR1 SIGUSR2 SIGCHLD alarm pthread_sigmask pthread_kill sigwait",
    socket: "AF_UNIX SO_REUSEPORT socketpair send_fds recv_fds",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios", "posix", "pty", "syslog"):
    sys.modules[name] = None  # importing it raises

import steadynorm
import steadynorm_contract.client, steadynorm_contract.discovery

model = torch.nn.Linear(2, 2)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
agent = steadynorm.attach(model, optimizer, server=sys.argv[1], run="elsewhere")
for _ in range(5):
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    agent.log(loss=1.0)
assert agent.flush(20), agent.counters
print(agent.counters.errors)
steadynorm.GradientStabilizer(model.named_parameters()).apply()
"""


@pytest.mark.slow
def test_a_run_without_the_functions_of_posix(stub: StubServer) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, stub.url], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr
    assert stub.run.steps == [1, 2, 3, 4, 5]
    assert stub.run.finish is not None  # closed at exit
