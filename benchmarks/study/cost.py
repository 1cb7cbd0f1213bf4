"""What each method costs beside an optimizer step: time and memory, on gradients of a GPT's shapes."""

from __future__ import annotations

import csv
import statistics
import time
from pathlib import Path

import torch
from study.methods import METHODS, make
from study.tasks.language import GPT

__all__ = ["FILE", "measure", "read"]

FILE = "cost.csv"
_COLUMNS = ("device", "tensors", "weights", "method", "apply_ms", "optimizer_ms", "state_bytes")


def measure(folder: Path, device: str, *, repeats: int) -> None:
    """Write the file anew: median times of apply() and of AdamW's step, in turns, so that all meet the same machine.

    By one thread, as the trials: two that wait for each other measure whatever else the machine does.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPT(96, 256, 6, 64).to(device)
    parameters = list(model.parameters())
    kept = [torch.randn_like(parameter) for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    methods = {name: make(name, model.named_parameters()) for name in METHODS}
    applied: dict[str, list[float]] = {name: [] for name in methods}
    stepped: list[float] = []
    for _ in range(repeats + 2):
        for name, method in methods.items():
            for parameter, gradient in zip(parameters, kept, strict=True):
                parameter.grad = gradient.clone()
            applied[name].append(_timed(method.apply, device))
        stepped.append(_timed(optimizer.step, device))
    with (folder / FILE).open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_COLUMNS)
        weights = sum(parameter.numel() for parameter in parameters)
        for name, times in applied.items():
            took, step = (f"{1000 * statistics.median(one[2:]):.4g}" for one in (times, stepped))
            writer.writerow((device, len(parameters), weights, name, took, step, methods[name].state_bytes))


def read(folder: Path) -> list[dict[str, str]]:
    """The rows; none where nothing was measured."""
    file = folder / FILE
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def _timed(act: object, device: str) -> float:
    assert callable(act)
    if device != "cpu":
        torch.cuda.synchronize()
    began = time.perf_counter()
    act()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began
