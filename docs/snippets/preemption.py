"""A job that is told to end (SIGTERM), saves, and continues as the same run when it is started again."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

import steadynorm


def loader(resumed: bool) -> Iterator[torch.Tensor]:
    """Batches; the first process gets SIGTERM in the tenth."""
    for number in range(1, 21):
        if number == 10 and not resumed:
            signal.raise_signal(signal.SIGTERM)
        yield torch.randn(32, 8)


def train() -> None:
    """One process of the job."""
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    # --8<-- [start:preemption]
    path = Path("checkpoint.pt")  # on a volume that outlives the pod
    preempted = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: preempted.set())
    with steadynorm.attach(model, optimizer) as agent:  # name and server from the environment
        if path.exists():
            checkpoint = torch.load(path)
            model.load_state_dict(checkpoint["model"])
            optimizer.load_state_dict(checkpoint["optimizer"])
            agent.load_state_dict(checkpoint["agent"])
        for inputs in loader(resumed=path.exists()):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
            if preempted.is_set() or agent.should_stop:
                torch.save(
                    {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "agent": agent.state_dict()},
                    path,
                )
                break
    # --8<-- [end:preemption]


train()
train()
