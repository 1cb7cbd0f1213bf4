"""How a run ends: closed, left with an exception, at exit, in a forked child, without a server that listens."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import torch

import steadynorm
from steadynorm_contract.telemetry import Desired, RunEnd

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training
    from tests.support.interpreter import Interpreter


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (None, RunEnd.FINISHED, ""),
        (ValueError("loss is NaN"), RunEnd.FAILED, "ValueError: loss is NaN"),
        (KeyboardInterrupt(), RunEnd.STOPPED, "interrupted from the keyboard"),
        (SystemExit(0), RunEnd.FINISHED, ""),
        (SystemExit(3), RunEnd.FAILED, "SystemExit: 3"),
    ],
)
def test_leaving_the_context_says_how_the_run_ended(
    training: Training, stub: StubServer, error: BaseException | None, state: RunEnd, reason: str
) -> None:
    def train() -> None:
        with steadynorm.attach(training.model, training.optimizer, server=stub.url):
            training.step()
            if error is not None:
                raise error

    if error is None:
        train()
    else:
        with pytest.raises(type(error)):
            train()
    assert stub.run.finish is not None
    assert (stub.run.finish.state, stub.run.finish.reason) == (state, reason)
    assert stub.run.finish.incarnation == 1
    assert stub.run.steps == [1]


def test_close_can_be_told_the_end(training: Training, stub: StubServer) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    with pytest.raises(ValueError, match="exploded"):
        agent.close(state="exploded")
    agent.close(state="failed", reason="x" * 10_000)
    assert stub.run.finish is not None
    assert stub.run.finish.state is RunEnd.FAILED
    assert len(stub.run.finish.reason) == 500


def test_a_run_without_a_step_is_never_registered(training: Training, stub: StubServer) -> None:
    steadynorm.attach(training.model, training.optimizer, server=stub.url).close()
    assert stub.requests == []


PROGRAM = """
import sys
import torch, steadynorm
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
steadynorm.attach(model, optimizer, server=sys.argv[1], run="program")
for _ in range(5):
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
"""


NOT_CLOSED = (
    "the process ended without agent.close(): whether the training was completed, or failed with an exception that was "
    "caught, is not known"
)


@pytest.mark.parametrize(
    ("last_line", "state", "reason"),
    [
        ("", RunEnd.FINISHED, NOT_CLOSED),
        ("try: 1 / 0\nexcept ZeroDivisionError: pass", RunEnd.FINISHED, NOT_CLOSED),
        ("raise RuntimeError('out of data')", RunEnd.FAILED, "RuntimeError: out of data"),
        ("raise KeyboardInterrupt", RunEnd.STOPPED, "interrupted from the keyboard"),
    ],
)
def test_an_agent_that_nobody_closed_is_closed_at_exit(
    stub: StubServer, python: Interpreter, last_line: str, state: RunEnd, reason: str
) -> None:
    done = python.run("-c", PROGRAM + last_line, stub.url)
    assert ("Traceback" in done.stderr) == (state is not RunEnd.FINISHED), done.stderr
    assert stub.run.steps == [1, 2, 3, 4, 5]
    assert stub.run.finish is not None
    assert (stub.run.finish.state, stub.run.finish.reason) == (state, reason)


FORKING = """
import os, sys
import torch, steadynorm
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
agent = steadynorm.attach(model, optimizer, server=sys.argv[1], run="forking")

def step():
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    agent.log(loss=1.0)

for _ in range(3):
    step()
agent.flush(20)
child = os.fork()
if child == 0:
    for _ in range(500):
        step()              # may train, and tells nobody
    agent.close()
    sys.exit(0)             # runs atexit
assert os.waitpid(child, 0)[1] == 0
for _ in range(2):
    step()
agent.close()
print(agent.counters.produced, agent.counters.acknowledged)
"""


def test_a_forked_child_is_inert_and_the_parent_goes_on(stub: StubServer, python: Interpreter) -> None:
    done = python.run("-W", "ignore", "-c", FORKING, stub.url)
    assert done.returncode == 0, done.stderr
    assert stub.run.steps == [1, 2, 3, 4, 5]
    assert len(stub.run.registrations) == 1
    assert [path for _, path, _, _ in stub.requests if path.endswith("/finish")] == [
        f"/runs/{next(iter(stub.runs))}/finish"
    ]
    produced, acknowledged = map(int, done.stdout.split())
    assert produced == acknowledged


INTERRUPTED = """
import os, signal, threading
import torch, steadynorm
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background, it is ignored
class Sink:
    def __init__(self): self.closing = threading.Event()
    def write(self, step, scalars): pass
    def close(self, state):
        os.kill(os.getpid(), signal.SIGINT); release.wait(60)
release = threading.Event()
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
agent = steadynorm.attach(model, optimizer, server="", sinks=[Sink()])
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
try:
    agent.close()
except KeyboardInterrupt:
    print("interrupted")
release.set()
print(len(agent._hooks), [len(each.parameters) for each in agent.stabilizers])
"""


def test_closing_that_is_interrupted_from_the_keyboard_lets_go_of_the_training(python: Interpreter) -> None:
    done = python.run("-W", "ignore", "-c", INTERRUPTED)
    assert done.stdout.splitlines() == ["interrupted", "0 [0]"], done.stderr


class Silent(Exception):
    """As exceptions with arguments that were forgotten: it cannot be shown."""

    def __str__(self) -> str:
        raise AttributeError("nothing")


def test_an_exception_that_has_no_text_ends_the_run_as_others_do(training: Training, stub: StubServer) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    agent.__exit__(Silent, Silent(), None)
    assert stub.run.finish is not None
    assert stub.run.finish.state is RunEnd.FAILED
    assert stub.run.finish.reason == "Silent: its text cannot be read"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []
        server.settimeout(0.1)
        closing = threading.Event()

        def accept() -> None:
            while not closing.is_set():
                with contextlib.suppress(TimeoutError):
                    kept.append(server.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        closing.set()
        thread.join()
        for connection in kept:
            connection.close()


@pytest.fixture
def full_backlog() -> Iterator[str]:
    """A port where connecting itself never ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        yield f"http://127.0.0.1:{port}"
        for client in clients:
            client.close()


@pytest.fixture
def nobody() -> Iterator[str]:
    """A port where nobody listens, and nobody else begins to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.serial
@pytest.mark.usefixtures("impatient_with_servers")
@pytest.mark.parametrize("server", ["black_hole", "full_backlog", "nobody"])
def test_close_takes_two_and_a_half_seconds_at_most_without_an_answering_server(
    training: Training, server: str, request: pytest.FixtureRequest
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=request.getfixturevalue(server))
    for _ in range(10):
        training.step()
    began = time.monotonic()
    agent.close()
    assert time.monotonic() - began < 2.5
    counters = agent.counters
    assert counters.produced == counters.acknowledged + counters.dropped + counters.buffered


@pytest.mark.serial
@pytest.mark.usefixtures("impatient_with_servers")
def test_close_waits_for_a_slow_server_that_does_answer(training: Training, stub: StubServer) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url, detail_every=1)
    slow = threading.Event()

    def delay(method: str, path: str, body: bytes) -> None:
        if path.endswith("/telemetry"):
            slow.wait(0.5)

    stub.fault = delay
    for _ in range(10):
        training.step()
    agent.close()
    assert stub.run.steps == list(range(1, 11))
    assert stub.run.finish is not None


def test_closing_ends_the_long_poll_at_once(training: Training, stub: StubServer) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    stub.wait_for(lambda: stub.runs)
    listener = [thread for thread in threading.enumerate() if thread.name == "steadynorm-settings-poller"]
    assert len(listener) == 1
    began = time.monotonic()
    agent.close()
    listener[0].join(20)
    assert not listener[0].is_alive()
    assert time.monotonic() - began < 10  # the poll itself would take 25


def test_a_dead_server_costs_training_one_warning_and_no_time(
    training: Training, nobody: str, caplog: pytest.LogCaptureFixture
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=nobody)
    for _ in range(50):
        training.step()
    time_of_steps = time.monotonic()
    while len(caplog.records) < 1 and time.monotonic() < time_of_steps + 20:
        agent.flush(1.0)
    for _ in range(3):
        agent.flush(1.0)  # more attempts, or none while it waits
    warnings = [record.message for record in caplog.records if record.name == "steadynorm"]
    assert len(warnings) == 1
    assert "cannot be reached; training continues" in warnings[0]
    assert agent.counters.buffered > 50
    agent.close()


LEAVING = """
import sys, time
import torch, steadynorm
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
steadynorm.attach(model, optimizer, server=sys.argv[1], run="leaving")
for _ in range(5):
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
print("the last line is done", flush=True)
"""


@pytest.mark.serial
def test_a_process_leaves_within_two_and_a_half_seconds_when_the_server_is_gone(black_hole: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", LEAVING, black_hole], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "the last line is done\n"
    began = time.monotonic()
    assert process.wait(60) == 0
    took_s = time.monotonic() - began
    process.stdout.close()
    # 2.5 s, and what the interpreter itself takes to end where torch is loaded and the machine is busy.
    assert took_s < 2.5 + 2.0, took_s


@pytest.mark.parametrize("where", ["hook before attach", "hook after attach", "hook after the step", "closure"])
def test_closing_within_a_step_harms_no_step_and_no_hook_of_others(training: Training, where: str) -> None:
    optimizer, calls = training.optimizer, []
    agent: steadynorm.Agent | None = None

    def close(*_: object) -> None:
        calls.append("close")
        if agent is not None and not agent.closed:
            agent.close()

    def closure() -> float:
        close()
        return 0.0

    if where == "hook before attach":
        optimizer.register_step_pre_hook(close)
    agent = steadynorm.attach(training.model, optimizer, server="")
    agent._mailbox.put(Desired(1, msgspec.structs.replace(agent.settings, lr_scale=0.5)))
    if where == "hook after attach":
        optimizer.register_step_pre_hook(close)
    if where == "hook after the step":
        optimizer.register_step_post_hook(close)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    for _ in range(3):
        training.model(torch.ones(2, 6)).sum().backward()
        optimizer.step(closure if where == "closure" else None)
        assert optimizer.param_groups[0]["lr"] == 0.01
    assert [calls.count(each) for each in ("before", "after", "close")] == [3, 3, 3]
    assert agent.counters.errors == 0
    assert "step" not in vars(optimizer)
    hooks: Any = optimizer
    ours = [*hooks._optimizer_step_pre_hooks.values(), *hooks._optimizer_step_post_hooks.values()]
    assert len(ours) == (2 if where == "closure" else 3), "those of others"
