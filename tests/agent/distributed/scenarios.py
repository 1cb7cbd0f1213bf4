"""The ranks of a test with several processes: `python scenarios.py SCENARIO WORLD FOLDER ARGUMENTS`.

This process imports torch once and forks the ranks. ARGUMENTS is JSON. What the scenario returns on a rank is left in
FOLDER/RANK.json, written whole. The ranks find each other by a file in FOLDER, so no port is taken twice. The fixture
`ranks` starts them and waits.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, SequenceParallel, parallelize_module
from torch.nn.functional import mse_loss

import steadynorm

if TYPE_CHECKING:
    from tests.agent.distributed.injected_errors import Twice, break_it
else:
    from injected_errors import Twice, break_it  # this file runs as a program beside it

PR_SET_PDEATHSIG = 1
BATCH = 24  # rows, which 2, 3 and 4 ranks share evenly
CHANGES: dict[int, dict[str, Any]] = {
    6: {"mode": "observe", "gamma2": 0.9},
    11: {"mode": "stabilize", "spike_limit": 3.0, "spike_fade": True},
    17: {"gamma1": 0.9},
    21: {"mode": "off"},
    24: {"mode": "stabilize", "spike_limit": None},
    26: {"mode": "clip", "clip_norm": 0.05},
    28: {"clip_norm": "auto"},
    29: {"mode": "stabilize", "transfer": "plain", "eps": 1e-6},
}
"""By step, what is changed before it."""


class Net(torch.nn.Module):
    """Shapes that no number of ranks divides, and a bias of one element: with it some shards are empty."""

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


def data(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The step's batch; the norm of its gradient varies, and step 13 spikes."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(BATCH, 7, generator=generator)
    return inputs, inputs.sum(1, keepdim=True) * (1e3 if step == 13 else 1.0)


def sharded(kind: str, world: int) -> tuple[torch.nn.Module, int, int]:
    """The net, sharded in that way; this rank's place among those with different data, and how many they are."""
    net = Net()
    rank = dist.get_rank()
    if kind.startswith("tensor parallel"):
        mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "tensor"))
        plan = {
            "first": ColwiseParallel(output_layouts=Shard(0)),
            "norm": SequenceParallel(sequence_dim=0),  # its gradients are left as sums still split over ranks
            "second": ColwiseParallel(input_layouts=Shard(0), output_layouts=Replicate()),
        }
        parallelize_module(net, mesh["tensor"], plan)
        if kind == "tensor parallel":
            return net, 0, 1
        fully_shard(net, mesh=mesh["data"])
        return net, mesh["data"].get_local_rank(), world // 2
    if kind == "hybrid":
        mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("copies", "shards"))
        fully_shard(net, mesh=mesh)
        return net, rank, world
    options: dict[str, Any] = {"mesh": init_device_mesh("cpu", (world,))}
    if kind == "bf16":
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    if kind == "offload":
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=False)
    for part in (net.first, net.second):
        fully_shard(part, **options)
    fully_shard(net, **options)
    return net, rank, world


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gradients_of(model: torch.nn.Module) -> list[torch.Tensor]:
    """Whole gradients."""
    return [whole(parameter.grad).clone() for parameter in model.parameters() if parameter.grad is not None]


def equals_one_process(world: int, kind: str, steps: int) -> dict[str, Any]:
    """Train a sharded net beside a whole one, through CHANGES; the largest differences of gradients and of norms."""
    model, place, parts = sharded(kind, world)
    alone = Net()
    pairs = [(m, steadynorm.GradientStabilizer(m.named_parameters(), gamma2=0.99)) for m in (model, alone)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=1e-3) for m, _ in pairs]
    share = slice(place * BATCH // parts, (place + 1) * BATCH // parts)
    gradient_error = norm_error = 0.0
    scales = set()
    for step in range(steps):
        inputs, targets = data(step)
        for (m, stabilizer), chosen in zip(pairs, (share, slice(None)), strict=True):
            m.zero_grad()
            mse_loss(m(inputs[chosen]), targets[chosen]).backward()
            stabilizer.configure(**CHANGES.get(step, {}))
        before = torch.stack([gradient.float().norm() for gradient in gradients_of(model)])
        for _, stabilizer in pairs:
            stabilizer.apply()
        norms = pairs[0][1].rows[:, 0]
        if pairs[0][1].settings.mode != "off":
            norm_error = max(norm_error, float(((norms - before).abs() / before).max()))
        scales.add(round(float(pairs[0][1].rows[0, 3]), 3))
        for mine, theirs in zip(gradients_of(model), gradients_of(alone), strict=True):
            gradient_error = max(gradient_error, float((mine - theirs).norm() / theirs.norm()))
        for optimizer in optimizers:
            optimizer.step()
    local = [p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in model.parameters()]
    return {
        "gradient_error": gradient_error,
        "norm_error": norm_error,
        "scales": len(scales),
        "collectives": pairs[0][1].collectives,
        "empty": local.count(0),
        "rows": pairs[0][1].rows.tolist(),
        "meshes": len(pairs[0][1]._groups[0][0].shards._meshes),  # type: ignore[union-attr]  # sharded: it has some
    }


def odd_gradients(world: int) -> dict[str, Any]:
    """Placements side by side, an ordinary tensor among them; one rank without a gradient, one with a NaN."""
    mesh = init_device_mesh("cpu", (world,))
    line = init_device_mesh("cpu", (2, world // 2))
    values = {
        "sharded": distribute_tensor(torch.arange(1.0, 11.0), mesh, [Shard(0)]),
        "copied": distribute_tensor(torch.ones(3, 5), mesh, [Replicate()]),
        "both": distribute_tensor(torch.ones(6, 4), line, [Replicate(), Shard(1)]),
        "twice": distribute_tensor(torch.ones(6, 4), line, [Shard(0), Shard(1)]),
        "plain": torch.ones(2),
        "absent": distribute_tensor(torch.ones(8), mesh, [Shard(0)]),
    }
    parameters = {name: torch.nn.Parameter(value) for name, value in values.items()}
    stabilizer = steadynorm.GradientStabilizer(parameters.items(), mode="observe")

    def norms() -> dict[str, float]:
        for name, parameter in parameters.items():
            parameter.grad = None if name == "absent" else parameter.detach().clone()
        return {}

    seen = []
    norms()
    stabilizer.apply()
    seen.append(stabilizer.rows[:, 0].tolist())
    norms()
    if dist.get_rank() == 1:
        for name in ("sharded", "both"):
            parameters[name].grad = None
    stabilizer.apply()
    seen.append(stabilizer.rows[:, 0].tolist())
    norms()
    stabilizer.configure(mode="stabilize")
    if dist.get_rank() == world - 1:
        grad = parameters["sharded"].grad
        assert isinstance(grad, DTensor)
        grad.to_local().fill_(float("nan"))
    stabilizer.apply()
    zeros = float(whole(parameters["sharded"].grad).abs().sum())  # type: ignore[arg-type]  # it has one
    return {"norms": seen, "zeros": zeros, "others": float(whole(parameters["twice"].grad).norm())}  # type: ignore[arg-type]


def attached(
    world: int,
    kind: str = "ddp",
    *,
    steps: int = 10**6,
    fault: dict[str, Any] | None = None,
    state: str | None = None,
    spoil: dict[str, Any] | None = None,
    twice: bool = False,
    until_off: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Train under an agent until an operator stops it, or for so many steps; what it was at each step.

    fault: rank, step and place of an exception inside the agent; once, or from then on. state: a file to load the
    agent's state from, and to save it to. spoil: rank and step at which one gradient is doubled behind the agent.
    twice: with an optimizer that asks its closure twice a step. until_off: ends when the agent has turned itself off.
    """
    rank = dist.get_rank()
    if kind == "ddp":
        model: torch.nn.Module = torch.nn.parallel.DistributedDataParallel(Net())
        place, parts = rank, world
    else:
        model, place, parts = sharded(kind, world)
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=not kind.startswith("tensor parallel"))
    if twice:
        optimizer = Twice(model.parameters(), lr=1e-3)
    agent = steadynorm.attach(model, optimizer, **options)
    if state is not None and Path(state).exists():
        agent.load_state_dict(torch.load(state, weights_only=True))
    asked: list[int] = []
    agent.on_checkpoint(asked.append)
    knobs = [agent.knob("coef", 0.5, low=0, high=1)]
    if "weight_decay" in optimizer.defaults:
        knobs += agent.optimizer_knobs(optimizer, "weight_decay").values()
    turned: list[list[Any]] = []  # revision, step and the knobs' values, where they changed
    share = slice(place * BATCH // parts, (place + 1) * BATCH // parts)
    history: list[tuple[int, int, str, float]] = []
    taken = 0
    while taken < steps and not agent.should_stop and not (until_off and agent._errors.off):
        inputs, targets = data(taken)

        def backward(inputs: torch.Tensor = inputs, targets: torch.Tensor = targets) -> None:
            optimizer.zero_grad()
            mse_loss(model(inputs[share]), targets[share]).backward()

        if not twice:
            backward()
        if fault is not None and fault["rank"] == rank and fault["step"] == taken:
            break_it(agent, fault["place"], once=fault["once"])
        if spoil is not None and spoil["rank"] == rank and spoil["step"] <= taken < spoil["step"] + 5:
            next(model.parameters()).grad.mul_(2.0)  # type: ignore[union-attr]  # it has one
        optimizer.step(*[backward] if twice else [])
        taken += 1
        if not turned or turned[-1][2:] != [knob.value for knob in knobs]:
            turned.append([agent.applied_revision, agent.step, *(knob.value for knob in knobs)])
        history.append((agent.step, agent.applied_revision, agent.stabilizers[0].settings.mode, agent.settings.gamma2))
    weights = [float(whole(parameter.detach()).double().norm()) for parameter in model.parameters()]
    result = {
        "history": history,
        "turned": turned,
        "run_id": agent.run_id,
        "checkpoints": asked,
        "errors": agent.counters.errors,
        "off": agent._errors.off,
        "connected": agent._publisher is not None,
        "weights": weights,
        "rows": agent.stabilizers[0].rows.tolist(),
    }
    if state is not None:
        saved = agent.state_dict()
        if rank == 0:
            torch.save(saved, state)
    agent.close()
    return result


SCENARIOS: dict[str, Callable[..., Any]] = {
    "equal one process": lambda world, kinds, steps: {kind: equals_one_process(world, kind, steps) for kind in kinds},
    "odd gradients": odd_gradients,
    "attached": attached,
    "several attached": lambda world, runs: [attached(world, **arguments) for arguments in runs],
}


def run(scenario: str, rank: int, world: int, folder: str, arguments: str) -> None:
    """One rank."""
    logging.basicConfig(level=logging.WARNING, format=f"rank {rank}: %(message)s")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    result = SCENARIOS[scenario](world, **json.loads(arguments))
    unfinished = Path(folder, f"{rank}.unfinished")
    unfinished.write_text(json.dumps(result))
    unfinished.rename(Path(folder, f"{rank}.json"))
    dist.barrier()
    dist.destroy_process_group()


def main() -> int:
    """Fork the ranks, and wait for them. They die with this process."""
    scenario, world, folder, arguments = sys.argv[1:]
    children = []
    for rank in range(int(world)):
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            run(scenario, rank, int(world), folder, arguments)
            return 0
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


if __name__ == "__main__":
    sys.exit(main())
