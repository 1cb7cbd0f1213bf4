"""What a step with the Triton kernels costs the host, without a GPU: compiled for one, and launched into nothing.

    python benchmarks/gpu_host.py [--rounds 200] [--json FILE]

Triton's driver is replaced by one that compiles for compute capability 9.0 and whose launcher does nothing, so what is
left is Python's part of a step: the gradients' addresses, and the launches up to the call of the driver. The real
launcher adds a few microseconds a launch. Tensors are in host memory; the addresses are looked at all the same. Times
are of this thread, not of the clock.

In interleaved rounds, beside what `clip_grad_norm_(foreach=True)` does before its first launch (its list of gradients,
grouped by device and dtype), and that again: the A/A control. `moved`: all gradients are elsewhere than a step ago.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from torch import Tensor, nn
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype as grouped  # what clip_grad_norm_ calls
from triton.backends.compiler import GPUTarget

from steadynorm.stabilizer.kernels.launcher import MultiTensor
from steadynorm.stabilizer.statistics import RING_COLUMNS, Statistics
from steadynorm_contract.settings import Mode

SHAPES = {"300 tensors": (300, 64), "10,000 tensors": (10_000, 8), "75 launches": (73, 2048)}
"""Number of square matrices, and their side. The last are as large as each to be a wave of its own."""


def fake_driver(launcher: Callable[..., None] = lambda *args: None) -> SimpleNamespace:
    """As much of a Triton driver as a launch needs. launcher: called in place of the GPU's, with the same arguments."""
    properties = {"max_shared_mem": 232_448, "multiprocessor_count": 132}
    results = 5 if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 4) else 4
    utils = SimpleNamespace(
        get_device_properties=lambda device: properties,
        load_binary=lambda *args: (object(), 0, 64, 0, 1024)[:results],
        unload_module=lambda module: None,
    )
    return SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_active_torch_device=lambda: torch.device("cpu"),
        launcher_cls=lambda source, metadata: launcher,
        utils=utils,
    )


def microseconds(methods: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Medians, in interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(-5, rounds):
        for name, method in methods.items():
            start = time.thread_time()
            method()
            if number >= 0:
                times[name].append(1e6 * (time.thread_time() - start))
    return {name: round(statistics.median(taken), 1) for name, taken in times.items()}


def measure(count: int, side: int, rounds: int) -> dict[str, object]:
    # One memory for all: only addresses are looked at.
    memory = [torch.zeros(side * side + 8 * count) for _ in range(2)]
    parameters: list[Tensor] = [nn.Parameter(torch.zeros(1).expand(side, side)) for _ in range(count)]
    lists = [[each[8 * at : 8 * at + side * side].view(side, side) for at in range(count)] for each in memory]
    rows = torch.zeros(count, len(RING_COLUMNS))
    kernels = MultiTensor(list(parameters), Statistics.allocate(count, rows.device), rows, Mode.STABILIZE)
    at = 0

    def give(gradients: list[Tensor]) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    def step() -> None:
        kernels.step(Mode.STABILIZE, True, None, None)

    def listed() -> object:
        return grouped([[p.grad for p in parameters if p.grad is not None]])

    give(lists[at])
    with torch.no_grad():
        found = microseconds({"clip's listing": listed, "clip's listing again": listed, "step": step}, rounds)
        moved = []
        for _ in range(max(10, rounds // 10)):
            at = 1 - at
            give(lists[at])
            start = time.thread_time()
            step()
            moved.append(1e6 * (time.thread_time() - start))
    return {"us": {**found, "step, moved": round(statistics.median(moved), 1)}, "launches": len(kernels.plan.launches)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    triton.runtime.driver.set_active(fake_driver())
    gc.disable()
    figures = {
        name: measure(count, side, max(20, options.rounds * 300 // max(300, count)))
        for name, (count, side) in SHAPES.items()
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
