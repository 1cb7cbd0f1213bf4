"""For ranks_torture.py: a small training on four gloo ranks, each a process that is forked from one that has torch."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, SequenceParallel, parallelize_module

import steadynorm

WORLD = 4
PR_SET_PDEATHSIG = 1

LevelSnapshot = Callable[[int], dict[str, Any]]


class Net(torch.nn.Module):
    """Small, and with shapes that four ranks cannot share evenly."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(7, 16)
        self.norm = torch.nn.LayerNorm(16)
        self.second = torch.nn.Linear(16, 5)
        self.last = torch.nn.Linear(5, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.last(torch.tanh(self.second(self.norm(torch.tanh(self.first(inputs))))))
        return hidden


def distributed(kind: str) -> torch.nn.Module:
    """The net, in that way on all ranks."""
    net = Net()
    if kind == "ddp":
        return torch.nn.parallel.DistributedDataParallel(net)
    mesh = init_device_mesh("cpu", (WORLD,))
    if kind == "fsdp":
        fully_shard(net, mesh=mesh)
        return net
    plan = {
        "first": ColwiseParallel(output_layouts=Shard(0)),
        "norm": SequenceParallel(sequence_dim=0),  # leaves gradients that are sums still split over the ranks
        "second": ColwiseParallel(input_layouts=Shard(0), output_layouts=Replicate()),
    }
    return parallelize_module(net, mesh, plan)


class Training:
    """One rank's part of a small training."""

    def __init__(self, kind: str, **options: Any) -> None:
        self.model = distributed(kind)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, foreach=kind != "tensor")
        self.agent = steadynorm.attach(self.model, self.optimizer, **options)
        self._place = 0 if kind == "tensor" else dist.get_rank()
        self._taken = 0

    def step(self, before: Callable[[], None] = lambda: None) -> None:
        """before: called when gradients are there."""
        generator = torch.Generator().manual_seed(WORLD * self._taken + self._place)
        inputs = torch.randn(8, 7, generator=generator)
        self.optimizer.zero_grad()
        (self.model(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
        before()
        self.optimizer.step()
        self._taken += 1


class Ranks:
    """WORLD processes, forked from this one, which has imported torch already and has no threads of torch's."""

    def __init__(self, folder: Path, part: LevelSnapshot) -> None:
        self._folder = folder
        self.children = [self._fork(rank, part) for rank in range(WORLD)]

    def results(self, within_s: float) -> list[dict[str, Any] | None] | None:
        """What each rank gave; None for one that failed. None in place of all if one has not ended in time."""
        left, deadline = set(self.children), time.monotonic() + within_s
        while left and time.monotonic() < deadline:
            left -= {child for child in left if os.waitpid(child, os.WNOHANG)[0]}
            time.sleep(0.02)
        for child in left:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        if left:
            return None
        files = [self._folder / f"{rank}.json" for rank in range(WORLD)]
        return [json.loads(file.read_text()) if file.exists() else None for file in files]

    def _fork(self, rank: int, part: LevelSnapshot) -> int:
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            log = os.open(self._folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            logging.basicConfig(level=logging.WARNING, format=f"rank {rank}: %(message)s")
            meeting = f"file://{self._folder}/meeting"
            dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD)
            result = json.dumps(part(rank))
            Path(self._folder, f"{rank}.json").write_text(result)
            dist.barrier()
            dist.destroy_process_group()
        except BaseException:
            logging.exception("this rank failed")
            os._exit(1)
        os._exit(0)


def free_port() -> int:
    """Nobody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def wait_for(happened: Callable[[], object], within_s: float = 90.0) -> None:
    """Until it has happened."""
    deadline = time.monotonic() + within_s
    while not happened():
        if time.monotonic() > deadline:
            raise SystemExit("the server did not answer in time")
        time.sleep(0.05)


@contextmanager
def part_of(what: str) -> Iterator[None]:
    """Says what is done, and how long it took."""
    print(what, flush=True)
    began = time.monotonic()
    yield
    print(f"  in {time.monotonic() - began:.0f} s")
