"""What each method costs beside an optimizer step: time and memory, on gradients of a GPT's shapes."""

from __future__ import annotations

import csv
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from study.methods import METHODS, make
from study.tasks.language import GPT
from torch.nn import functional

__all__ = ["FILE", "measure", "read"]

FILE = "cost.csv"
_COLUMNS = ("device", "tensors", "weights", "method", "apply_ms", "optimizer_ms", "step_ms", "state_bytes")
_WARM_UP = 30
"""Rounds that are not counted: more than the 25 steps in which ZClip and AdaGC do something else than later."""
_BATCH, _CONTEXT = 16, 64


def measure(folder: Path, device: str, *, repeats: int) -> None:
    """Write the file anew: median times of apply(), of AdamW's step and of a whole step of training without a method,
    in turns, so that all meet the same machine. Each round has other gradients.

    By one thread, as the trials: two that wait for each other measure whatever else the machine does.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPT(96, 256, 6, _CONTEXT).to(device)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    methods = {name: make(name, model.named_parameters()) for name in METHODS}
    applied: dict[str, list[float]] = {name: [] for name in methods}
    stepped: list[float] = []
    passed: list[float] = []
    order = list(methods)
    for _ in range(_WARM_UP + repeats):
        order = [*order[1:], order[0]]  # whoever comes first finds colder caches
        passed.append(_timed(partial(_pass, model, device), device))
        kept = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        for name in order:
            for parameter, gradient in zip(parameters, kept, strict=True):
                parameter.grad = gradient.clone()
            applied[name].append(_timed(methods[name].apply, device))
        stepped.append(_timed(optimizer.step, device))
    optimizer_ms, pass_ms = (1000 * statistics.median(times[_WARM_UP:]) for times in (stepped, passed))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_COLUMNS)
        weights = sum(parameter.numel() for parameter in parameters)
        for name, times in applied.items():
            took, own, whole = (
                f"{ms:.4g}" for ms in (1000 * statistics.median(times[_WARM_UP:]), optimizer_ms, optimizer_ms + pass_ms)
            )
            state = methods[name].state_bytes
            writer.writerow((device, len(parameters), weights, name, took, own, whole, state))


def _pass(model: GPT, device: str) -> None:
    """Forward and backward of one random batch."""
    symbols = torch.randint(96, (_BATCH, _CONTEXT + 1)).to(device)
    model.zero_grad()
    logits = model(symbols[:, :-1])
    functional.cross_entropy(logits.flatten(0, 1), symbols[:, 1:].flatten()).backward()


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
