"""What a step of the stabilizer costs beside gradient clipping, which people already pay for.

    python benchmarks/step_cost.py [--rounds 60] [--device cpu] [--cpu-time] [--json FILE]
    python benchmarks/step_cost.py --optimizers 200     # an optimizer for each parameter, in place of the shapes
                                   [--elements 64 65536]
    python benchmarks/step_cost.py --hook 100 1000      # one optimizer of so many parameters: all that the agent does

Per shape, in interleaved rounds of random order: `clip_grad_norm_(foreach=True)`, the same again (the A/A control),
`GradientStabilizer.apply()` by the paper's rule, by the default of `attach()` and in mode `clip`, and the rule as the
paper's authors write it, one tensor at a time with a host decision each. Reported are medians of the times and of the
per-round ratios to clipping.

With `--optimizers` each of so many parameters, of `--elements` each, has an optimizer whose own step does nothing.
"torch" are those without an agent: their hooks and their profiler's record cost that before anybody does anything.
With `--hook` it is one optimizer of so many, and what is shown of the agent is the time above an optimizer without one.
Times are of this thread's processor, since a round is longer than a turn of a busy machine.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

import steadynorm
from steadynorm import PRESETS, GradientStabilizer

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


def measure(
    methods: dict[str, Callable[[], object]], rounds: int, device: torch.device, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each call: {method: [rounds]}. Every round runs all methods in an order of its own."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    order = random.Random(0)
    for number in range(-3, rounds):  # three rounds to warm up
        for name in order.sample(list(methods), len(methods)):
            _wait(device)
            start = clock()
            methods[name]()
            _wait(device)
            if number >= 0:
                times[name].append(clock() - start)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(
    count: int, side: int, rounds: int, device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> dict[str, dict[str, float]]:
    """Median milliseconds, and median per-round ratio to clipping, of each method at one shape."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(side, side, device=device)) for _ in range(count)]
    for parameter in parameters:
        parameter.grad = torch.randn(side, side, generator=generator).to(device) / side
    stabilizer = GradientStabilizer((f"p{index}", parameter) for index, parameter in enumerate(parameters))

    clipping = GradientStabilizer(((str(at), each) for at, each in enumerate(parameters)), mode="clip")
    default = GradientStabilizer(((str(at), each) for at, each in enumerate(parameters)), **PRESETS["robust"])  # type: ignore[arg-type]  # settings

    def clip() -> object:
        return nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)

    methods: dict[str, Callable[[], object]] = {
        "clip_grad_norm_": clip,
        "clip_grad_norm_ again": clip,
        "steadynorm, paper": stabilizer.apply,
        "steadynorm, default": default.apply,
        "steadynorm, mode=clip": clipping.apply,
        "one by one": OneByOne(parameters).apply,
    }
    return _figures(measure(methods, rounds, device, clock), "clip_grad_norm_")


class Empty(torch.optim.Optimizer):
    """Its step does nothing but what torch does around it."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 1e-3})

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Nothing."""


def many_optimizers(count: int, elements: int, rounds: int) -> dict[str, dict[str, float]]:
    """As `compare`, for `count` parameters of so many elements, with an optimizer each."""
    return _figures(_empty_steps(count, elements, rounds, together=False), "clip_grad_norm_ of all")


def hook_of_one(count: int, elements: int, rounds: int) -> dict[str, dict[str, float]]:
    """As `compare`, for one optimizer of `count` parameters; the agent's times without those of torch's own step."""
    times = _empty_steps(count, elements, rounds, together=True)
    for name in ("torch again", "steadynorm", "steadynorm, observe"):
        times[name] = [whole - bare for whole, bare in zip(times[name], times["torch"], strict=True)]
    return _figures(times, "clip_grad_norm_ of all")


def _empty_steps(count: int, elements: int, rounds: int, *, together: bool) -> dict[str, list[float]]:
    """Seconds of each round, by method, of optimizers whose step does nothing. together: one has all parameters."""
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(elements, generator=generator) for _ in range(count)]

    def made() -> tuple[nn.ParameterList, list[Empty]]:
        parameters = nn.ParameterList(nn.Parameter(torch.zeros(elements)) for _ in range(count))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        return parameters, [Empty(parameters)] if together else [Empty([parameter]) for parameter in parameters]

    def in_turn(optimizers: list[Empty]) -> Callable[[], object]:
        def run() -> None:
            for optimizer in optimizers:
                optimizer.step()

        return run

    alone, stabilized, observed = made(), made(), made()
    agents = [steadynorm.attach(*stabilized, server=""), steadynorm.attach(*observed, server="", mode="observe")]
    clipped = list(alone[0])

    def clip() -> object:
        return nn.utils.clip_grad_norm_(clipped, 1.0, foreach=True)

    methods: dict[str, Callable[[], object]] = {
        "clip_grad_norm_ of all": clip,
        "clip_grad_norm_ again": clip,
        "torch": in_turn(alone[1]),
        "torch again": in_turn(alone[1]),
        "steadynorm": in_turn(stabilized[1]),
        "steadynorm, observe": in_turn(observed[1]),
    }
    times: dict[str, list[float]] = {name: [] for name in methods}
    order = random.Random(0)
    for number in range(-12, rounds):  # the agent's own first steps are over then
        for name in order.sample(list(methods), len(methods)):
            for parameters, _ in (alone, stabilized, observed):
                torch._foreach_copy_([each.grad for each in parameters], gradients)
            start = time.thread_time()
            methods[name]()
            if number >= 0:
                times[name].append(time.thread_time() - start)
    for agent in agents:
        agent.close()
    return times


def _figures(times: dict[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    return {
        name: {
            "median_ms": 1e3 * statistics.median(taken),
            "ratio": statistics.median(mine / clip for mine, clip in zip(taken, times[base], strict=True)),
        }
        for name, taken in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu-time", action="store_true", help="of this process, where others use the machine too")
    parser.add_argument("--optimizers", type=int, default=0, help="so many, of a parameter each")
    parser.add_argument("--hook", type=int, nargs="+", default=[], help="one optimizer of so many parameters")
    parser.add_argument("--elements", type=int, nargs="+", default=[64], help="of each optimizer's parameter")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    print(f"torch {torch.__version__}, {name}, {torch.get_num_threads()} threads, {options.rounds} rounds\n")
    print(f"{'shape':>16}  {'method':<22} {'median ms':>10} {'ratio to clipping':>18}")
    figures: dict[str, dict[str, dict[str, float]]] = {}
    clock = time.process_time if options.cpu_time else time.perf_counter
    many = options.optimizers
    counts: list[int] = options.hook or ([many] if many else [])
    for count, size in [(count, elements) for count in counts for elements in options.elements] or SHAPES:
        shape = f"{count} of {size}" if counts else f"{count} x {size}x{size}"
        if options.hook:
            figures[shape] = hook_of_one(count, size, options.rounds)
        elif many:
            figures[shape] = many_optimizers(count, size, options.rounds)
        else:
            figures[shape] = compare(count, size, options.rounds, device, clock)
        for method, figure in figures[shape].items():
            print(f"{shape:>16}  {method:<22} {figure['median_ms']:>10.3f} {figure['ratio']:>18.3f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
