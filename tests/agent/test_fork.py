"""Real DataLoader workers, by each way there is to start a process: none of them speaks for the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.agent import StubServer
    from tests.support.interpreter import Interpreter

PROGRAM = '''
import os, sys, threading
import torch, steadynorm
from torch.utils.data import DataLoader, Dataset

class Squares(Dataset):
    """Tells from inside a worker what is there of the agent."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        ours = [thread.name for thread in threading.enumerate() if thread.name.startswith("steadynorm")]
        return torch.full((2,), float(index)), os.getpid(), len(ours)

def main():
    server, context = sys.argv[1:]
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    agent = steadynorm.attach(model, optimizer, server=server, run="workers")

    def step(inputs):
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step()
        agent.log(loss=loss)

    step(torch.ones(4, 2))
    assert agent.flush(20)  # the threads run, and one waits in the long-poll, when the workers are started
    loader = DataLoader(Squares(), batch_size=4, num_workers=2, multiprocessing_context=context)
    seen, threads = set(), 0
    for inputs, pids, ours in loader:
        seen |= set(pids.tolist())
        threads += int(ours.sum())
        step(inputs)
    assert len(seen) == 2 and os.getpid() not in seen, seen
    assert threads == 0, threads
    agent.close()
    print(agent.counters.produced, agent.counters.acknowledged)

if __name__ == "__main__":
    main()
'''


@pytest.mark.parametrize("context", ["fork", "forkserver", "spawn"])
def test_workers_are_silent_and_the_run_goes_on(stub: StubServer, tmp_path: Path, context: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    # With torch's own number of threads: forking a process that has a pool of them is what users do.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-W", "ignore", str(program), stub.url, context]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert stub.run.steps == [1, 2, 3, 4, 5]
    assert len(stub.run.registrations) == 1
    assert [path for _, path, _, _ in stub.requests if path.endswith("/finish")] == [
        f"/runs/{next(iter(stub.runs))}/finish"
    ]
    produced, acknowledged = map(int, done.stdout.split())
    assert produced == acknowledged


FREEING = """
import os, sys
import torch, steadynorm
from steadynorm.transport import abandoned

def train():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    agent = steadynorm.attach(model, optimizer, server=sys.argv[1], recovery=steadynorm.Recovery())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    agent.flush(20)
    polling = agent._publisher._poller._client._connections
    while not polling._open:
        pass
    mailbox = agent._mailbox
    with mailbox._lock, mailbox._changed._cond:  # as another thread may hold them
        child = os.fork()
    return child, None if child == 0 else (agent, optimizer, polling), mailbox if child == 0 else None

child, kept, mailbox = train()      # in the child, the agent is freed as the function returns
if child == 0:
    mailbox.release()
    print("abandoned", len(abandoned.publishers), flush=True)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
print("polls", all(each.sock is not None for each in kept[2]._open))
kept[0].close()
"""


def test_a_forked_child_that_frees_the_agent_leaves_the_parents_connections_alone(
    stub: StubServer, python: Interpreter
) -> None:
    done = python.run("-W", "ignore", "-c", FREEING, stub.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["abandoned", "0", "polls", "True"]
    assert len([path for _, path, _, _ in stub.requests if path.endswith("/settings")]) == 1
