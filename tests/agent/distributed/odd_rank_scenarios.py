"""Ranks that do what the agent does not expect, see `scenarios.py`: other numbers of steps, shards, reductions."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import steadynorm
from steadynorm.distributed import arrival

if TYPE_CHECKING:
    from tests.agent.distributed.scenarios import SCENARIOS, Net, data, main
else:
    from scenarios import SCENARIOS, Net, data, main  # this file runs as a program beside it


class Messages(logging.Handler):
    """What was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        log = logging.getLogger("steadynorm")
        for earlier in [each for each in log.handlers if isinstance(each, Messages)]:
            log.removeHandler(earlier)
        log.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.levelname} {record.getMessage()}")


class Reducing(torch.optim.AdamW):
    """Averages gradients in its own step, as nanochat's optimizer does."""

    def step(self, closure: Any = None) -> Any:
        average(parameter.grad for group in self.param_groups for parameter in group["params"])
        return super().step(closure)


def average(tensors: Any) -> None:
    """Over all ranks, in place."""
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor.div_(dist.get_world_size())


def waits(agent: steadynorm.Agent) -> list[float]:
    """Seconds of each call that may wait for other ranks; filled as they are made."""
    exchange: Any = agent._ranks._exchange  # type: ignore[union-attr]  # there are ranks
    seconds: list[float] = []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            begin = time.monotonic()
            try:
                return call(*args, **kwargs)
            finally:
                seconds.append(time.monotonic() - begin)

        return measured

    exchange.complete, exchange.close = timed(exchange.complete), timed(exchange.close)
    return seconds


def backward(model: torch.nn.Module, step: int, factor: float = 1.0) -> None:
    """This rank's share of the step's batch."""
    inputs, targets = data(2 * step + dist.get_rank())
    model.zero_grad()
    (factor * (model(inputs) - targets).square().mean()).backward()


def uneven(world: int, kind: str, server: str | None = None) -> dict[str, Any]:
    """Ranks that take other numbers of steps: DDP's join(), or local SGD where one skips. How long they waited."""
    rank, messages = dist.get_rank(), Messages()
    model: torch.nn.Module = Net()
    if kind == "join":
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    agent = steadynorm.attach(model, optimizer, server=server, run="uneven")
    seconds, taken = waits(agent), 0
    if kind == "join":
        with model.join():  # type: ignore[operator]  # DDP's
            for step in range(15 if rank == 0 else 60):
                backward(model, step)
                optimizer.step()
                taken += 1
    else:
        for step in range(120):
            backward(model, step)
            if rank == 0 or step % 3:
                optimizer.step()
                taken += 1
            if step % 10 == 9:
                average(parameter.data for parameter in model.parameters())
    weights = [float(parameter.detach().double().norm()) for parameter in model.parameters()]
    agent.flush(20)
    agent.close()
    return {
        "step": agent.step,
        "taken": taken,
        "mode": agent.settings.mode,
        "waited_s": sum(seconds),
        "findings": [each.name for each in agent.health().findings],
        "messages": messages.texts,
        "weights": weights,
    }


def replicas(world: int, kind: str, server: str | None = None) -> dict[str, Any]:
    """Plain tensors on all ranks that are or are not replicas: what the agent says of them after 60 steps."""
    rank, messages = dist.get_rank(), Messages()
    model: Any = Net()
    if kind == "pipeline":
        model = torch.nn.ModuleDict({f"stage{rank}": model})
    kinds: dict[str, Any] = {"inside step": Reducing, "idle inside step": Reducing}
    rate = 0.0 if kind.startswith("idle") else 1e-3
    optimizer = kinds.get(kind, torch.optim.AdamW)(model.parameters(), lr=rate)
    agent = steadynorm.attach(model, optimizer, server=server, run="replicas")
    inner = model[f"stage{rank}"] if kind == "pipeline" else model
    for step in range(60):
        backward(inner, step, 10.0 ** (2 * rank))
        gradients = [parameter.grad for parameter in model.parameters()]
        if kind == "before step":
            average(gradients)
        if kind == "experts":  # the first layer is each rank's own, and began equal
            average(gradients[2:])
        optimizer.step()
        if kind == "average of weights" or (kind == "local SGD" and step % 10 == 9):
            average(parameter.data for parameter in model.parameters())
    scale = agent.statistics()[next(iter(agent.statistics()))]["scale"]
    agent.flush(20)
    agent.close()
    return {
        "mode": agent.settings.mode,
        "stabilizer": agent.stabilizers[0].settings.mode,
        "scale": scale,
        "findings": [each.name for each in agent.health().findings],
        "messages": messages.texts,
        "repr": repr(agent),
    }


def foreign_shards(world: int) -> dict[str, Any]:
    """What attach() says of FSDP1 in each form; and of what only looks like it."""
    said = {}

    def attempt(name: str, model: torch.nn.Module, parameters: Any = None) -> None:
        optimizer = torch.optim.SGD((parameters or model).parameters(), lr=0.1)
        try:
            steadynorm.attach(model, optimizer).close()
            said[name] = ""
        except ValueError as error:
            said[name] = str(error)

    cpu = torch.device("cpu")
    for original in (True, False):
        name = "original" if original else "flat"
        attempt(name, FullyShardedDataParallel(Net(), use_orig_params=original, device_id=cpu))
    net: Any = Net()
    net.first = FullyShardedDataParallel(net.first, use_orig_params=True, device_id=cpu)
    attempt("a part", net)
    wrapped = FullyShardedDataParallel(Net(), use_orig_params=True, device_id=cpu)
    attempt("inside", wrapped.module, wrapped)
    whole = ShardingStrategy.NO_SHARD
    attempt("not sharded", FullyShardedDataParallel(Net(), None, whole, use_orig_params=True, device_id=cpu))
    attempt("ddp", DistributedDataParallel(Net()))
    only_here: Any = torch.nn.Linear(2, 2)
    if dist.get_rank() == 1:
        only_here.weight.ds_id = 3  # as DeepSpeed does
    attempt("on one rank", only_here)
    return said


def zero(world: int) -> dict[str, Any]:
    """Weights after 20 steps with an optimizer whose state is partitioned over ranks, and with an ordinary one."""
    weights = {}
    for name in ("whole", "partitioned"):
        model = DistributedDataParallel(Net())
        if name == "whole":
            optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-3)
        else:
            optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-3)
        agent = steadynorm.attach(model, optimizer)
        for step in range(20):
            backward(model, step)
            optimizer.step()
        agent.close()
        weights[name] = [p.detach().flatten().tolist() for p in model.parameters()]
    return weights


def late(world: int) -> list[str]:
    """Rank 1 calls attach() only when rank 0 has told that it waits. What rank 0 told."""
    store: Any = dist.distributed_c10d._get_default_store()
    model, messages = Net(), Messages()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def told(record: logging.LogRecord) -> bool:
        store.set("told", "yes")
        return True

    if dist.get_rank() == 0:
        arrival.TELL_AFTER = timedelta(seconds=0.2)
        messages.addFilter(told)
    else:
        store.wait(["told"], timedelta(seconds=60))
    steadynorm.attach(model, optimizer, server="").close()
    return messages.texts


def fork(world: int) -> dict[str, Any]:
    """A child of each rank closes the agent, amid an exchange that the other rank has not come to."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    agent = steadynorm.attach(model, optimizer, server="", exchange_every=2)

    def train(steps: int) -> None:
        for step in range(steps):
            backward(model, step)
            average(parameter.grad for parameter in model.parameters())
            optimizer.step()

    train(5)
    assert agent._ranks is not None
    assert agent._ranks._exchange.in_progress
    child = os.fork()
    if child == 0:
        agent.close()
        agent.load_state_dict(agent.state_dict())
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    train(10)
    agent.close()
    return {"child": status, "step": agent.step, "findings": list(agent._check.findings)}


SCENARIOS["uneven"] = uneven
SCENARIOS["fork"] = fork
SCENARIOS["late"] = late
SCENARIOS["replicas"] = lambda world, kinds: {kind: replicas(world, kind) for kind in kinds}
SCENARIOS["recorded replicas"] = lambda world, kind, server: replicas(world, kind, server)
SCENARIOS["foreign shards"] = foreign_shards
SCENARIOS["zero"] = zero

if __name__ == "__main__":
    sys.exit(main())
