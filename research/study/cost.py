"""What each method costs beside an optimizer step: time and memory, on gradients of a GPT's shapes."""

from __future__ import annotations

import csv
import statistics
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from study.methods import METHODS, make
from study.tasks.language import GPT
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["FILE", "WARM_UP", "measure", "read"]

FILE = "cost.csv"
_COLUMNS = (
    "device",
    "tensors",
    "weights",
    "method",
    "apply_ms",
    "optimizer_ms",
    "step_ms",
    "state_bytes",
    "peak_bytes",
)
WARM_UP = 30
"""Rounds that are not counted: more than the 25 steps in which ZClip and AdaGC do something else than later."""
_BATCH, _CONTEXT = 16, 64


def measure(folder: Path, device: str, *, repeats: int, warm_up: int = WARM_UP) -> None:
    """Write the file anew: median times of apply(), of AdamW's step and of a whole step of training without a method,
    in turns, so that all meet the same machine; and memory: what a method keeps, and the most that one call of it
    allocates for a while. Each round has other gradients.

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
    for _ in range(warm_up + repeats):
        order = [*order[1:], order[0]]  # whoever comes first finds colder caches
        passed.append(_timed(partial(_pass, model, device), device))
        kept = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        for name in order:
            for parameter, gradient in zip(parameters, kept, strict=True):
                parameter.grad = gradient.clone()
            applied[name].append(_timed(methods[name].apply, device))
        stepped.append(_timed(optimizer.step, device))
    optimizer_ms, pass_ms = (1000 * statistics.median(times[warm_up:]) for times in (stepped, passed))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_COLUMNS)
        weights = sum(parameter.numel() for parameter in parameters)
        for name, times in applied.items():
            took, own, whole = (
                f"{ms:.4g}" for ms in (1000 * statistics.median(times[warm_up:]), optimizer_ms, optimizer_ms + pass_ms)
            )
            state, peak = methods[name].state_bytes, _peak(methods[name].apply, device)
            writer.writerow((device, len(parameters), weights, name, took, own, whole, state, peak))


class _Allocated(TorchDispatchMode):
    """The most bytes of tensors at one time that are made within it. Views of what was there before are none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(made):
            place, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
            if size and place not in given and place not in self._alive:
                self._alive[place] = size
                self.peak = max(self.peak, sum(self._alive.values()))
                weakref.finalize(tensor, self._alive.pop, place, None)
        return made


def _tensors(tree: object) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def _peak(apply: Callable[[], None], device: str) -> int:
    if device == "cpu":
        allocated = _Allocated()
        with allocated:
            apply()
        return allocated.peak
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    apply()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


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


def _timed(act: Callable[[], object], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    began = time.perf_counter()
    act()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began
