"""For benchmarks/recovery.py: runs that meet no fault, a fault that stays, what snapshots cost, and their memory."""

from __future__ import annotations

import hashlib
import importlib
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from recovery_faults import Data, Run, burst, dense
from torch.nn.functional import cross_entropy

import steadynorm
from steadynorm.recovery.memory import needed_bytes
from steadynorm_contract.detectors import Detector

TASKS = ("language", "digits-cnn", "digits-vit", "co2", "cartpole", "pendulum")
RATES = (1e-3, 3e-3)
CLEAN_STEPS, LONG_STEPS = 400, 20_000
WANDERING = (("cartpole", 3e-3), ("pendulum", 1e-3))
MORE_SEEDS, LONGER_SEEDS, LONGER_STEPS = range(5, 35), range(100, 106), 1_600
BLOCKS, BLOCK = 20, 100

Row = dict[str, Any]


def clean(row: Row) -> Row:
    """A task of the study. Of the first seed also without recovery: are the weights the same to the bit?"""
    rollbacks, weights, _ = _train_task(row, "act")
    found = {**row, "rollbacks": rollbacks}
    return found if row["seed"] else {**found, "same_bits": weights == _train_task(row, None)[1]}


def wandering_runs() -> Iterator[Row]:
    """Reinforcement learning: more seeds, and longer, where returns grow tenfold."""
    for seed in [*MORE_SEEDS, *LONGER_SEEDS]:
        for task, rate in WANDERING:
            steps = LONGER_STEPS if seed in LONGER_SEEDS else CLEAN_STEPS
            yield {"part": "wandering", "task": task, "rate": rate, "steps": steps, "seed": seed}


def wandering(row: Row) -> Row:
    """Rollbacks; and whether the default conditions on the loss were met all the same, as they are where named."""
    rollbacks, _, losses = _train_task(row, "act", row["steps"])
    met = []
    for condition in steadynorm.Recovery().conditions():
        detector = Detector(condition)
        if condition.baseline == "sigma":
            met += [step for step, loss in enumerate(losses, 1) if detector.observe(step, loss)]
    return {**row, "rollbacks": rollbacks, "first_met": min(met, default=None)}


def _train_task(row: Row, mode: str | None, steps: int = CLEAN_STEPS) -> tuple[int, str, list[float]]:
    """Rollbacks, a hash of the weights at the end, and the losses."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "research"))
    tasks = importlib.import_module("study.tasks.registry").TASKS
    sys.path.pop(0)
    torch.manual_seed(row["seed"])
    task = tasks[row["task"]].make("cpu", row["seed"])
    batches = torch.Generator().manual_seed(row["seed"])
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=row["rate"])
    recovery = None if mode is None else steadynorm.Recovery(mode=mode)
    agent = steadynorm.attach(task.model, optimizer, server="", preset="robust", recovery=recovery)
    events: list[object] = []
    losses = []
    if recovery is not None:
        agent.on_rollback(events.append)
    for _ in range(steps):
        loss = task.loss(batches)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.log(loss=loss)
        agent.flush()
        losses.append(float(loss.detach()))
    agent.close()
    hashed = hashlib.sha256()
    for parameter in task.model.parameters():
        hashed.update(parameter.detach().contiguous().numpy().tobytes())
    return len(events), hashed.hexdigest(), losses


def stays(row: Row) -> Row:
    """Garbage from step 300 on, for good: does it end, and when? Without a server the run is asked to stop."""
    torch.manual_seed(row["seed"])
    model, data, events = dense(), Data(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    recovery = steadynorm.Recovery(mode="act", every_steps=50, held_steps=50)
    agent = steadynorm.attach(model, optimizer, server="", preset="robust", recovery=recovery)
    agent.on_rollback(lambda event: events.append(event.from_step))
    step = 0
    while not agent.should_stop and step < 2_000:
        step += 1
        run = Run(model, optimizer, *data.batch(row["seed"], step), 0, data)
        if step >= 300:
            burst(run)
        optimizer.zero_grad()
        loss = cross_entropy(model(run.inputs), run.labels)
        loss.backward()
        optimizer.step()
        agent.log(loss=loss)
        agent.flush()
    stopped = agent.should_stop
    agent.close()
    return {**row, "rollbacks": events, "stopped_at": step if stopped else None}


class _Side:
    """A training whose blocks of steps are timed."""

    def __init__(self, recovery: steadynorm.Recovery | None) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(256, 512),
            torch.nn.ReLU(),
            torch.nn.Linear(512, 512),
            torch.nn.ReLU(),
            torch.nn.Linear(512, 8),
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.needed = 0 if recovery is None else needed_bytes(recovery, self.model, [self.optimizer])
        self.agent = steadynorm.attach(self.model, self.optimizer, server="", recovery=recovery)
        self.inputs = torch.randn(256, 256, generator=torch.Generator().manual_seed(1))

    def block(self, steps: int = BLOCK) -> float:
        """Seconds of the training thread's CPU for a step: what else the machine does is not in them."""
        began = time.thread_time()
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = self.model(self.inputs).square().mean()
            loss.backward()
            self.optimizer.step()
            self.agent.log(loss=loss)
        return (time.thread_time() - began) / steps


def cost(row: Row) -> Row:
    """Blocks in turn: without recovery, the same again, and with a snapshot in each block. Medians, in percent."""
    without, again, with_it = _Side(None), _Side(None), _Side(steadynorm.Recovery(every_steps=BLOCK))
    took: list[list[float]] = [[], [], []]
    for number in range(BLOCKS + 2):
        for side, times in zip((without, again, with_it), took, strict=True):
            seconds = side.block()
            if number > 1:
                times.append(seconds)
    first, second, third = took

    def difference(times: list[float]) -> float:
        pairs = [100 * (mine / theirs - 1) for mine, theirs in zip(times, first, strict=True)]
        return round(statistics.median(pairs), 2)

    control: Any = with_it.agent._recovery
    everyone = [*control.snapshots._free, *(each.buffers for each in control.snapshots._held)]
    held = sum(tensor.nbytes for each in everyone for tensor in each._tensors.values())
    for side in (without, again, with_it):
        side.agent.close()
    return {
        **row,
        "step_ms": round(1000 * statistics.median(first), 2),
        "a_a_percent": difference(second),
        "percent": difference(third),
        "reckoned_bytes": with_it.needed,
        "held_bytes": held,
    }


def memory(row: Row) -> Row:
    """Resident MiB of the process after a tenth of the steps, and after all of them."""
    model, data = dense(), Data()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    agent = steadynorm.attach(model, optimizer, server="", recovery=steadynorm.Recovery(every_steps=100))
    seen = []
    for step in range(1, LONG_STEPS + 1):
        inputs, labels = data.batch(0, step)
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        agent.log(loss=loss)
        if step in (LONG_STEPS // 10, LONG_STEPS):
            pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
            seen.append(round(pages * 4096 / 2**20, 1))
    agent.close()
    return {**row, "steps": LONG_STEPS, "mib": seen}
