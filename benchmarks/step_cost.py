"""What a step of the stabilizer costs beside gradient clipping, which people already pay for.

    python benchmarks/step_cost.py [--rounds 60] [--device cpu] [--json FILE]

Per shape, in interleaved rounds of random order: `clip_grad_norm_(foreach=True)`, the same again (the A/A control),
`GradientStabilizer.apply()`, and the rule as the paper's authors write it, one tensor at a time with a host decision
each. Reported are medians of the times and of the per-round ratios to clipping.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from steadynorm import GradientStabilizer

SHAPES = [(300, 64), (150, 256), (24, 1024), (12, 2048)]
"""(number of square matrices, their side): many small tensors to few large ones."""


class OneByOne:
    """The paper's rule as its authors' code runs it: a Python loop that asks the device for every norm."""

    def __init__(self, parameters: list[nn.Parameter], gamma1: float = 0.6, gamma2: float = 0.999) -> None:
        self.parameters, self.gamma1, self.gamma2 = parameters, gamma1, gamma2
        self.moments: dict[nn.Parameter, list[float]] = {p: [0.0, 0.0] for p in parameters}
        self.step = 0

    @torch.no_grad()
    def apply(self) -> None:
        self.step += 1
        for parameter in self.parameters:
            if parameter.grad is None:
                continue
            norm = torch.norm(parameter.grad).item()
            if norm == 0 or not math.isfinite(norm):
                continue
            moments = self.moments[parameter]
            moments[0] = self.gamma1 * moments[0] + (1 - self.gamma1) * norm
            moments[1] = self.gamma2 * moments[1] + (1 - self.gamma2) * norm**2
            mean = moments[0] / (1 - self.gamma1**self.step)
            rms = math.sqrt(moments[1] / (1 - self.gamma2**self.step))
            parameter.grad.div_(norm).mul_(mean / (rms + 1e-12))


def measure(methods: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each call: {method: [rounds]}. Every round runs all methods in an order of its own."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    order = random.Random(0)
    for number in range(-3, rounds):  # three rounds to warm up
        for name in order.sample(list(methods), len(methods)):
            _wait(device)
            start = time.perf_counter()
            methods[name]()
            _wait(device)
            if number >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(count: int, side: int, rounds: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Median milliseconds, and median per-round ratio to clipping, of each method at one shape."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(side, side, device=device)) for _ in range(count)]
    for parameter in parameters:
        parameter.grad = torch.randn(side, side, generator=generator).to(device) / side
    stabilizer = GradientStabilizer((f"p{index}", parameter) for index, parameter in enumerate(parameters))

    def clip() -> object:
        return nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)

    methods: dict[str, Callable[[], object]] = {
        "clip_grad_norm_": clip,
        "clip_grad_norm_ again": clip,
        "steadynorm": stabilizer.apply,
        "one by one": OneByOne(parameters).apply,
    }
    times = measure(methods, rounds, device)
    clips = times["clip_grad_norm_"]
    return {
        name: {
            "median_ms": 1e3 * statistics.median(taken),
            "ratio": statistics.median(mine / clip for mine, clip in zip(taken, clips, strict=True)),
        }
        for name, taken in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    print(f"torch {torch.__version__}, {name}, {torch.get_num_threads()} threads, {options.rounds} rounds\n")
    print(f"{'shape':>16}  {'method':<22} {'median ms':>10} {'ratio to clipping':>18}")
    figures = {}
    for count, side in SHAPES:
        shape = f"{count} x {side}x{side}"
        figures[shape] = compare(count, side, options.rounds, device)
        for method, figure in figures[shape].items():
            print(f"{shape:>16}  {method:<22} {figure['median_ms']:>10.3f} {figure['ratio']:>18.3f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
