"""The Triton kernels on a real GPU: right, without a wait, in a captured graph, and how fast.

    python benchmarks/gpu_step.py [--parameters 1e9] [--rounds 20] [--json FILE]

Needs CUDA, and of packages only torch, triton, msgspec and steadynorm itself; without CUDA it says so and exits with 2.
Each section that fails is reported as an error beside the others' figures, and the exit status is then 1.

The proof that decides whether the kernels are used runs first, alone, and tells all that it found; the other sections
use the kernels whatever it found. A machine without msgspec needs its wheel: `pip download msgspec` on another, then
`pip install --no-index --no-deps --target`, and agent/ and contract/ in PYTHONPATH.

What is timed always writes: mode observe with a gain of 0.9999. A gradient that is stabilized again and again has its
own norm as its target, and a scale of exactly one writes nothing.

Device times are of replays of a captured CUDA graph, which no host slows down, in interleaved rounds; `eager` ones have
the host in them. Bandwidth is told twice, as a fraction of a copy's in the same run: counting two passes over the
gradients (read once, written once: what must move), and three (as if nothing were found in L2).
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from gpu_reference import CHANGES, Figures, compare, named, pair
from torch import Tensor, nn

from steadynorm import GradientStabilizer
from steadynorm.stabilizer.statistics import RING_COLUMNS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WAVES_MIB = (None, 6, 12, 24, 48)
WIDTHS = (2048, 1024)
MANY = 10_000


def correctness(device: torch.device) -> Figures:
    """Of each dtype, eager."""
    figures: Figures = {}
    shapes: list[tuple[int, ...]] = [(1,), (4095,), (64, 64), (4097,), (1000, 1003), (3000, 2048)]
    for name, dtype in DTYPES.items():
        ours, theirs = pair(shapes, dtype, device)
        stabilizer = with_kernels(ours)
        figures[name] = compare(stabilizer.apply, stabilizer, ours, theirs)
    return figures


def proof(device: torch.device) -> Figures:
    """All differences that the kernels' verification finds here, and what it takes."""
    from steadynorm.stabilizer.kernels.verification import differences

    start = time.perf_counter()
    found = differences(device)
    return {"seconds": time.perf_counter() - start, "differences": found}


def with_kernels(parameters: list[nn.Parameter]) -> GradientStabilizer:
    """Raises RuntimeError where the kernels are not used: nothing here would be about them."""
    stabilizer = GradientStabilizer(named(parameters))
    if stabilizer._kernels is None:
        raise RuntimeError("the kernels are not used here: is a parameter of a dtype that they take?")
    return stabilizer


def that_writes(parameters: list[nn.Parameter], *, kernels: bool = True) -> GradientStabilizer:
    """One whose steps multiply every gradient by 0.9999."""
    os.environ["STEADYNORM_KERNELS"] = "1" if kernels else "0"
    stabilizer = GradientStabilizer(named(parameters), mode="observe")
    os.environ["STEADYNORM_KERNELS"] = "1"
    stabilizer._statistics.gain.fill_(0.9999)
    stabilizer._gains_changed = True
    stabilizer.apply()
    if bool((stabilizer.rows[:, RING_COLUMNS.index("scale")] == 1).any()):
        raise RuntimeError("a scale is 1: that tensor would not be written, and too little would be timed")
    return stabilizer


def syncs(device: torch.device) -> Figures:
    """How many of 30 steps wait for the device, with settings that change and gradients that move."""
    ours, _ = pair([(64, 64)] * 50, torch.float32, device)
    stabilizer = with_kernels(ours)
    stabilizer.apply()
    live: dict[int, dict[str, object]] = dict(CHANGES)
    live |= {22: {"mode": "clip"}, 25: {"clip_norm": "auto"}, 28: {"mode": "stabilize"}}
    waits, first = 0, ""
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(30):
            try:
                if step % 3 == 0:
                    for parameter in ours:
                        parameter.grad = torch.ones_like(parameter)
                stabilizer.configure(**live.get(step, {}))
                if step == 20:
                    stabilizer.reset()
                stabilizer.apply()
            except RuntimeError as error:
                waits, first = waits + 1, first or str(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"steps": 30, "syncs": waits, "first": first}


def captured(apply: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of one call."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        apply()
        apply()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        apply()
    return graph


def in_a_graph(device: torch.device) -> Figures:
    """One captured step is replayed while settings and modes change; also whether it has to be captured again."""
    ours, theirs = pair([(7,), (300, 200), (70000,)], torch.float32, device)
    stabilizer = with_kernels(ours)
    fresh = stabilizer.state_dict()
    graph = captured(stabilizer.apply)
    stabilizer.load_state_dict(fresh)
    return {"replays": 22, **compare(graph.replay, stabilizer, ours, theirs)}


def milliseconds(methods: dict[str, Callable[[], object]], rounds: int, calls: int) -> dict[str, float]:
    """Median device time of a call, by events around `calls` of them, in interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(-2, rounds):
        for name, method in methods.items():
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            for _ in range(calls):
                method()
            stop.record()
            stop.synchronize()
            if number >= 0:
                times[name].append(start.elapsed_time(stop) / calls)
    return {name: statistics.median(taken) for name, taken in times.items()}


def transformer(parameters: float, width: int) -> list[tuple[int, ...]]:
    """Shapes of about that many parameters: an embedding, and as many layers as it takes."""
    layer = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width), (width,), (width,)]
    embedding = (50304, width)
    layers = round((parameters - math.prod(embedding)) / sum(math.prod(shape) for shape in layer))
    return [embedding, *(shape for _ in range(max(1, layers)) for shape in layer)]


def cost(device: torch.device, dtype: torch.dtype, parameters: float, width: int, rounds: int) -> Figures:
    """Device time of a step on a large model, beside clipping and a copy of as many bytes."""
    from steadynorm.stabilizer.kernels.launcher import MultiTensor
    from steadynorm.stabilizer.kernels.plan import WAVE_BYTES

    ours = [nn.Parameter(torch.zeros(s, dtype=dtype, device=device)) for s in transformer(parameters, width)]
    for parameter in ours:
        parameter.grad = torch.randn_like(parameter)
    size = sum(p.numel() * p.element_size() for p in ours)
    stabilizer, with_torch = that_writes(ours), that_writes(ours, kernels=False)
    clipping = GradientStabilizer(named(ours), mode="clip", clip_norm=1e-3)
    source = torch.randn(size // 4, dtype=torch.float32, device=device)  # not zeros, which a memory may compress
    target = torch.empty_like(source)

    def clip() -> Tensor:
        return nn.utils.clip_grad_norm_(ours, 1.0, foreach=True)

    methods: dict[str, Callable[[], object]] = {
        "copy": lambda: target.copy_(source),
        "clip": captured(clip).replay,
        "clip again": captured(clip).replay,
        "clip eager": clip,
        "steadynorm": captured(stabilizer.apply).replay,
        "steadynorm eager": stabilizer.apply,
        "torch's operations": captured(with_torch.apply).replay,
        "mode=clip": captured(clipping.apply).replay,
    }
    mode = stabilizer.settings.mode
    for wave in WAVES_MIB:
        made = MultiTensor(
            list(ours), stabilizer._statistics, stabilizer.rows, mode, None if wave is None else wave << 20
        )
        methods[f"wave of {wave} MiB"] = captured(lambda made=made: made.step(mode, True, None, None)).replay  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    times = milliseconds(methods, rounds, calls=5)
    copied = 2 * size / times["copy"]
    return {
        "parameters": sum(p.numel() for p in ours),
        "gradient_bytes": size,
        "default_wave_bytes": WAVE_BYTES,
        "ms": times,
        "ratio_to_clip": times["steadynorm"] / times["clip"],
        "ratio_to_clip_eager": times["steadynorm eager"] / times["clip eager"],
        "ratio_of_mode_clip_to_clip": times["mode=clip"] / times["clip"],
        "copy_gb_per_s": copied / 1e6,
        "of_copy_bandwidth_two_passes": 2 * size / times["steadynorm"] / copied,
        "of_copy_bandwidth_three_passes": 3 * size / times["steadynorm"] / copied,
    }


def small(device: torch.device, count: int, rounds: int) -> Figures:
    """Device and host time of a step of small tensors, in microseconds; also when every gradient has moved.

    300 of them are 5 MB, which stay in L2 from step to step; 10,000 are 164 MB, which do not.
    """
    ours, _ = pair([(64, 64)] * count, torch.float32, device)
    for parameter in ours:
        parameter.grad = torch.randn_like(parameter)
    stabilizer = that_writes(ours)

    def clip() -> Tensor:
        return nn.utils.clip_grad_norm_(ours, 1.0, foreach=True)

    device_ms = milliseconds(
        {"steadynorm": captured(stabilizer.apply).replay, "clip": captured(clip).replay}, rounds, 20
    )
    others = [[torch.randn_like(parameter) for parameter in ours] for _ in range(2)]
    host: dict[str, list[float]] = {"steadynorm": [], "clip": [], "steadynorm, all gradients moved": []}
    for number in range(10 * rounds):
        for name, call in (("steadynorm", stabilizer.apply), ("clip", clip), ("moved", stabilizer.apply)):
            if name == "moved":
                name = "steadynorm, all gradients moved"
                for parameter, gradient in zip(ours, others[number % 2], strict=True):
                    parameter.grad = gradient
            torch.cuda.synchronize(device)
            start = time.perf_counter()
            call()
            host[name].append(time.perf_counter() - start)
            if name == "clip":
                stabilizer.apply()  # so that the next round starts with known addresses
    return {
        "device_us": {name: 1e3 * value for name, value in device_ms.items()},
        "host_us": {name: 1e6 * statistics.median(values) for name, values in host.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parameters", type=float, default=1e9)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "gpu_step.py needs a CUDA device: torch sees none. On the CPU, run benchmarks/step_cost.py.",
            file=sys.stderr,
        )
        return 2
    import triton

    os.environ.setdefault("STEADYNORM_KERNELS", "1")
    device = torch.device("cuda", torch.cuda.current_device())
    figures: Figures = {
        "card": torch.cuda.get_device_name(device),
        "l2_bytes": getattr(torch.cuda.get_device_properties(device), "L2_cache_size", None),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }
    sections: dict[str, Callable[[], Figures]] = {
        "proof": lambda: proof(device),
        "largest relative error": lambda: correctness(device),
        "synchronizations": lambda: syncs(device),
        "captured graph": lambda: in_a_graph(device),
        **{
            f"cost {name} width {width}": functools.partial(
                cost, device, DTYPES[name], options.parameters, width, options.rounds
            )
            for width in WIDTHS
            for name in ("float32", "bfloat16")
        },
        "300 small tensors": lambda: small(device, 300, options.rounds),
        "10,000 small tensors": lambda: small(device, MANY, max(3, options.rounds // 4)),
    }
    failed = False
    for name, section in sections.items():
        try:
            figures[name] = section()
        except Exception as error:  # the other sections' figures are worth having
            traceback.print_exc()
            figures[name], failed = {"error": f"{type(error).__name__}: {error}"}, True
        torch.cuda.empty_cache()
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
