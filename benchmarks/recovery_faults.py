"""Fourteen kinds of faults, and the ways of training that meet them: for `benchmarks/recovery.py`.

The kinds are those of public incident reports, at the size of a laptop. The ways: nothing; clipping to a norm of 1;
steadynorm stabilizing without recovery (preset robust, which limits and fades spikes); leaving out steps whose loss or
norm is an outlier (OLMo-core's SkipStepOptimizer); ARC as it is published (`pip install arc-training==5.2.0.post1`, in
an environment of its own, with its defaults); and steadynorm with recovery, with its own detectors.
"""

from __future__ import annotations

import importlib
import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import steadynorm

STEPS, FAULT, RATE = 600, 300, 3e-3
CLASSES, FEATURES, LENGTH, BATCH = 10, 16, 6, 32
WAYS = ("untouched", "clip", "stabilize", "skip", "arc", "recovery")
STRUCK = 1
"""Of several ranks, the one that meets what only one can."""


class Recurrent(torch.nn.Module):
    """A vanilla recurrent net, which explodes where its recurrent weight is large."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.nn.RNN(FEATURES, 32, batch_first=True, nonlinearity="relu")
        self.head = torch.nn.Linear(32, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, [batch, CLASSES], of a constant sequence of the inputs [batch, FEATURES]."""
        outputs, _ = self.rnn(inputs.unsqueeze(1).expand(-1, LENGTH, -1))
        logits: Tensor = self.head(outputs[:, -1])
        return logits


def dense() -> torch.nn.Module:
    """Two hidden layers."""
    return torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, CLASSES),
    )


class Data:
    """Classes of a fixed random net, with noise: a batch is known by its step."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self.teacher = torch.randn(FEATURES, CLASSES, generator=generator)

    def batch(self, seed: int, step: int, size: int = BATCH) -> tuple[Tensor, Tensor]:
        """Inputs and labels of one step."""
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        inputs = torch.randn(size, FEATURES, generator=generator)
        noise = torch.randn(size, CLASSES, generator=generator)
        return inputs, (torch.tanh(inputs @ self.teacher) + 0.3 * noise).argmax(1)


@dataclass
class Run:
    """What a fault can reach. `step` counts from the fault on, beginning with 0."""

    model: Any
    optimizer: torch.optim.Optimizer
    inputs: Tensor
    labels: Tensor
    step: int
    data: Data
    factor: float = 1.0  # on the loss
    gradients: Callable[[], None] = lambda: None  # called between backward() and the step
    rank: int | None = None  # of several; None: the whole training
    sharded: bool = False  # each rank has a part of each weight

    @property
    def has_state(self) -> bool:
        """Whether a fault in weights or optimizer state strikes here: in replicas alike, else in one rank's part."""
        return not self.sharded or self.rank == STRUCK

    @property
    def has_batch(self) -> bool:
        """Whether a broken batch is this one: that of one rank."""
        return self.rank is None or self.rank == STRUCK


def local(tensor: Any) -> Tensor:
    """The memory of this rank: a shard's, or the tensor's own."""
    mine: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return mine


def _each_gradient(run: Run, value: Callable[[Tensor], Tensor]) -> None:
    for parameter in run.model.parameters():
        if parameter.grad is not None and run.has_state:
            gradient = local(parameter.grad)
            gradient.copy_(value(gradient))


def nan_batch(run: Run) -> None:
    if run.step == 0 and run.has_batch:
        run.inputs = torch.full_like(run.inputs, math.nan)


def inf_label(run: Run) -> None:
    if run.step == 0 and run.has_batch:
        run.factor = math.inf


def loss_times_10000(run: Run) -> None:
    if run.step < 3:
        run.factor = 1e4


def burst(run: Run) -> None:
    if run.step < 20:
        run.inputs, run.labels = run.inputs * 30, run.labels.roll(1)


def rate_times_100(run: Run) -> None:
    if run.step == 0:
        run.optimizer.param_groups[0]["lr"] *= 100


@torch.no_grad()
def corrupted_weight(run: Run) -> None:
    if run.step == 0 and run.has_state:
        local(next(run.model.parameters()).detach()).view(-1)[3] = 1e4


@torch.no_grad()
def flipped_bit(run: Run) -> None:
    if run.step == 0 and run.has_state:
        moment = local(run.optimizer.state[next(run.model.parameters())]["exp_avg"])
        moment.view(-1).view(torch.int32)[:8] ^= 1 << 30


def overflow_series(run: Run) -> None:
    if run.step < 12:
        run.gradients = lambda: _each_gradient(run, lambda gradient: torch.full_like(gradient, math.inf))


@torch.no_grad()
def exploding(run: Run) -> None:
    if run.step == 0:
        named = dict(run.model.named_parameters())
        local(next(named[name] for name in named if name.endswith("weight_hh_l0")).detach()).mul_(6.0)


def dead_data(run: Run) -> None:
    if run.step < 50:
        run.inputs, run.labels = torch.zeros_like(run.inputs), torch.zeros_like(run.labels)


def poisoned_shard(run: Run) -> None:
    if run.step < 50:
        run.labels = (run.labels + 5) % CLASSES


def state_lost(run: Run) -> None:
    if run.step == 0:
        run.optimizer.state.clear()


def one_rank_times_1000(run: Run) -> None:
    if run.rank is not None:
        if run.step < 10 and run.rank == STRUCK:
            run.factor = 4_000.0  # of the mean over four ranks, a thousand
    elif run.step < 10:
        noise = torch.Generator().manual_seed(run.step)
        run.gradients = lambda: _each_gradient(
            run, lambda gradient: 500 * gradient.norm() * torch.randn(gradient.shape, generator=noise)
        )


def stuck_batch(run: Run) -> None:
    if run.step < 100:
        run.inputs, run.labels = run.data.batch(99, 0)


KINDS: dict[str, Callable[[Run], None]] = {
    "nan_batch": nan_batch,
    "inf_label": inf_label,
    "loss_times_10000": loss_times_10000,
    "burst": burst,
    "rate_times_100": rate_times_100,
    "corrupted_weight": corrupted_weight,
    "flipped_bit": flipped_bit,
    "overflow_series": overflow_series,
    "exploding_rnn": exploding,
    "dead_data": dead_data,
    "poisoned_shard": poisoned_shard,
    "state_lost": state_lost,
    "one_rank_times_1000": one_rank_times_1000,
    "stuck_batch": stuck_batch,
}


class Skip:
    """Leaves out a step whose loss or norm is above mean + 6 sigma of the last 128 steps."""

    def __init__(self) -> None:
        self._known: tuple[deque[float], deque[float]] = (deque(maxlen=128), deque(maxlen=128))

    def skips(self, loss: float, norm: float) -> bool:
        """Whether the step is left out. Both enter what later steps are compared with, where they are finite."""
        outlier = False
        for value, known in zip((loss, norm), self._known, strict=True):
            if not math.isfinite(value):
                outlier = True
            else:
                enough = len(known) >= 64
                outlier |= enough and value > statistics.fmean(known) + 6 * statistics.pstdev(known)
                known.append(value)
        return outlier


def train(
    way: str,
    kind: str | None,
    seed: int,
    steps: int = STEPS,
    fault: int = FAULT,
    recurrent: bool = False,
    **options: Any,
) -> tuple[float, int]:
    """One run: its final loss on held-out data, and how often it was rolled back. kind: of the fault; None: none."""
    torch.manual_seed(seed)
    model, data, skip = Recurrent() if recurrent else dense(), Data(), Skip()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    agent, controller, rollbacks = None, None, 0
    heard: list[object] = []
    if way in ("stabilize", "recovery"):
        recovery = None
        if way == "recovery":
            recovery = steadynorm.Recovery(**{"mode": "act", "every_steps": 50, "held_steps": 50, **options})
        agent = steadynorm.attach(model, optimizer, run="benchmark", server="", preset="robust", recovery=recovery)
        if recovery is not None:
            agent.on_rollback(heard.append)
    elif way == "arc":
        arc = importlib.import_module("arc")
        controller = arc.Controller(model, optimizer, config=arc.ControllerConfig(verbose=False))
    for step in range(1, steps + 1):
        run = Run(model, optimizer, *data.batch(seed, step), step - fault, data)
        if kind is not None and step >= fault:
            KINDS[kind](run)
        optimizer.zero_grad()
        loss = cross_entropy(model(run.inputs), run.labels) * run.factor
        loss.backward()
        run.gradients()
        if way == "clip":
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        left_out = way == "skip" and skip.skips(float(loss.detach()), _norm(model))
        if controller is not None:
            action = controller.step(loss)
            left_out, rollbacks = action.should_skip, rollbacks + bool(action.rolled_back)
        if not left_out:
            optimizer.step()
        if agent is not None:
            agent.log(loss=loss)
            agent.flush()  # evaluates now, so that the result does not depend on how fast this machine is
            if agent.should_stop:
                break
    if agent is not None:
        agent.close()
    with torch.no_grad():
        inputs, labels = data.batch(10_000, 0, 4096)
        return float(cross_entropy(model(inputs), labels)), rollbacks + len(heard)


def _norm(model: torch.nn.Module) -> float:
    """Of all gradients."""
    return float(
        torch.stack([parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]).norm()
    )
