"""For the first call on a GPU: what gpu_step.py does not look at, each check alone, so that one failure hides no other.

    python benchmarks/gpu_first.py [--json FILE] [--rounds 7]
    python benchmarks/gpu_first.py --cpu                 # dry run in Triton's interpreter, without the timings
    ncu --clock-control none --cache-control none -k step_kernel \
        --metrics dram__bytes_read.sum,dram__bytes_write.sum python benchmarks/gpu_first.py --one-step bfloat16

ncu's bytes are to be compared with gpu_l2_model.py's. What may break the CUDA context comes last.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
parser.add_argument("--cpu", action="store_true")
parser.add_argument("--json", type=Path)
parser.add_argument("--one-step", metavar="DTYPE", help="take one step of the large model, for a profiler")
parser.add_argument("--rounds", type=int, default=7)
options = parser.parse_args()
if options.cpu:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
os.environ.setdefault("STEADYNORM_KERNELS", "1")  # figures also where the proof disagrees

import torch  # noqa: E402
from gpu_step import captured, milliseconds, proof, that_writes, transformer  # noqa: E402
from torch import nn  # noqa: E402

from steadynorm import GradientStabilizer  # noqa: E402
from steadynorm.recording.recorder import Recorder  # noqa: E402
from steadynorm.stabilizer.kernels import launcher, plan  # noqa: E402
from steadynorm.stabilizer.kernels import triton as kernels  # noqa: E402

DEVICE = torch.device("cpu") if options.cpu else torch.device("cuda", 0)
Found = dict[str, Any] | str


def wait() -> None:
    if not options.cpu:
        torch.cuda.synchronize()


def parameter(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape, dtype=dtype, device=DEVICE))


def stabilizer(parameters: list[nn.Parameter], path: str = "1", **given: Any) -> GradientStabilizer:
    """path: 1 for the kernels, 0 for torch's operations."""
    os.environ["STEADYNORM_KERNELS"] = path
    made = GradientStabilizer([(f"p{at}", each) for at, each in enumerate(parameters)], **given)
    os.environ["STEADYNORM_KERNELS"] = "1"
    assert (made._kernels is not None) == (path == "1")
    return made


def both_paths() -> Found:
    """Dtypes, an order of elements of its own, and one that the kernel leaves to torch: the largest differences."""
    ours = [
        parameter(70_001),
        parameter(64, 33, dtype=torch.bfloat16),
        parameter(5, dtype=torch.float16),
        parameter(8, 3, 5, 5),
        parameter(9, dtype=torch.float64),
    ]
    theirs = [nn.Parameter(torch.empty_like(each)) for each in ours]
    fast, slow = stabilizer(ours), stabilizer(theirs, "0")
    gradients = norms = 0.0
    for step in range(3):
        for our, their in zip(ours, theirs, strict=True):
            values = torch.randn(our.shape, device=DEVICE).to(our.dtype).mul_(0.1 + step)
            if our.dim() == 4:
                values = values.to(memory_format=torch.channels_last)
            our.grad, their.grad = values, values.clone()
        fast.apply()
        slow.apply()
        for our, their in zip(ours, theirs, strict=True):
            assert our.grad is not None
            assert their.grad is not None
            error = (our.grad.double() - their.grad.double()).norm() / their.grad.double().norm()
            gradients = max(gradients, float(error.nan_to_num(math.inf)))
        norms = max(norms, float((fast.rows[:, 0] / slow.rows[:, 0] - 1).abs().max()))
    return {"gradients": gradients, "norms": norms}


def unaligned() -> Found:
    memory = torch.randn(300_000, device=DEVICE)
    ours = [parameter(100_003), parameter(50_001)]
    made = stabilizer(ours)
    ours[0].grad, ours[1].grad = memory[1:100_004], memory[150_002:200_003]
    between, exact = memory[100_004:150_002].clone(), [float(each.grad.double().norm()) for each in ours]  # type: ignore[union-attr]  # just set
    made.apply()
    errors = [abs(float(made.rows[at, 0]) / norm - 1) for at, norm in enumerate(exact)]
    return {"norm": max(errors), "neighbours kept": torch.equal(between, memory[100_004:150_002])}


def exchanged_memory() -> Found:
    """A parameter becomes smaller: nothing behind its gradient may be written."""
    ours, memory = parameter(100), torch.full((100,), 7.0, device=DEVICE)
    made = stabilizer([ours])
    ours.grad = torch.full_like(ours, 5.0)
    made.apply()
    ours.grad = None
    ours.data = torch.zeros(40, device=DEVICE)
    ours.grad = memory[:40]
    made.apply()
    return {"neighbours kept": bool((memory[40:] == 7).all())}


def default_device() -> Found:
    torch.set_default_device(DEVICE)
    try:
        ours = parameter(10)
        made, recorder = stabilizer([ours]), Recorder([1], [DEVICE])
        for step in range(1, 4):
            ours.grad = torch.ones_like(ours)
            made.configure(gamma2=0.9 + step / 100)
            made.apply()
            recorder.put(0, step, step, made.rows, 0.1)
        wait()
        return {"steps read": len(recorder.collect(final=True)[0])}
    finally:
        torch.set_default_device(None)


def waits() -> Found:
    """Of the host in six steps of each path, with a recorder and a loss."""
    found: dict[str, Any] = {}
    for name, path in (("kernels", "1"), ("torch", "0")):
        ours = [parameter(64, 64) for _ in range(20)]
        made, recorder, loss = stabilizer(ours, path), Recorder([20], [DEVICE]), torch.ones((), device=DEVICE)
        for each in ours:
            each.grad = torch.randn_like(each)
        made.apply()
        wait()
        if not options.cpu:
            torch.cuda.set_sync_debug_mode("error")
        found[name] = 0
        try:
            for step in range(1, 7):
                try:
                    made.configure(gamma2=0.9 + step / 100, mode=("stabilize", "observe")[step % 2])
                    made.apply()
                    recorder.put(0, step, step, made.rows, 0.1)
                    recorder.put_loss(loss)
                except RuntimeError as error:
                    found[name] += 1
                    found.setdefault("first", str(error)[:200])
        finally:
            if not options.cpu:
                torch.cuda.set_sync_debug_mode("default")
    return found


def loss_scaling() -> Found:
    if options.cpu:
        return "skipped"
    model = nn.Linear(64, 64).to(DEVICE)
    optimizer, scaler = torch.optim.AdamW(model.parameters(), fused=True), torch.amp.GradScaler("cuda")
    made, errors = stabilizer(list(model.parameters())), []
    optimizer.register_step_pre_hook(
        lambda *_: made.apply(getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None))
    )
    for _ in range(4):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = model(torch.randn(8, 64, device=DEVICE)).square().mean()
        scaler.scale(loss).backward()
        norm = float(model.weight.grad.double().norm()) / scaler.get_scale()  # type: ignore[union-attr]  # just made
        scaler.step(optimizer)
        scaler.update()
        errors.append(abs(float(made.rows[0, 0]) / norm - 1))
    return {"norm": max(errors)}


def shards() -> Found:
    """FSDP2 of one rank, whose local parts the kernels take: host time of a step beside a clip's."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group(
            "gloo" if options.cpu else "nccl", init_method=f"file://{folder}/store", rank=0, world_size=1
        )
        try:
            model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(3 if options.cpu else 150)]).to(DEVICE)
            fully_shard(model, mesh=init_device_mesh(DEVICE.type, (1,)))
            made = GradientStabilizer(model.named_parameters())
            model(torch.randn(4, 64, device=DEVICE)).square().mean().backward()
            made.apply()
            wait()
            clip = functools.partial(nn.utils.clip_grad_norm_, list(model.parameters()), 1.0)
            methods: dict[str, Callable[[], object]] = {"step": made.apply, "clip": clip}
            times: dict[str, list[float]] = {name: [] for name in methods}
            for _ in range(options.rounds):
                for name, call in methods.items():
                    start = time.perf_counter()
                    call()
                    times[name].append(1e3 * (time.perf_counter() - start))
                    wait()
            medians = {f"{name} host ms": statistics.median(taken) for name, taken in times.items()}
            return {"kernels": made._kernels is not None, **medians}
        finally:
            distributed.destroy_process_group()


def huge() -> Found:
    """More than 2^31 elements."""
    if options.cpu:
        return "skipped"
    count = 2**31 + 4097
    ours = parameter(count, dtype=torch.bfloat16)
    ours.grad = torch.full_like(ours, 0.5)
    ours.grad[-1] = 8.0
    made = stabilizer([ours])
    made.apply()
    norm = math.sqrt((count - 1) * 0.25 + 64)
    ratio = float(ours.grad[-1] / ours.grad[0])
    return {"norm": abs(float(made.rows[0, 0]) / norm - 1), "last to first, want 16": ratio}


def capture_beside_the_reader() -> Found:
    """The publisher's thread reads rows while graphs are captured in torch's default mode."""
    if options.cpu:
        return "skipped"
    ours = [parameter(256, 256) for _ in range(50)]
    made, recorder = stabilizer(ours), Recorder([50], [DEVICE])
    found: dict[str, Any] = {"reader": 0, "capture": 0, "first": ""}
    done = threading.Event()
    for each in ours:
        each.grad = torch.randn_like(each)
    for step in range(1, 100):
        made.apply()
        recorder.put(0, step, step, made.rows, 0.1)
    wait()

    def read() -> None:
        while not done.is_set():
            try:
                recorder._next = 1
                recorder.collect()
            except Exception as error:
                found["reader"] += 1
                found["first"] = found["first"] or str(error)[:200]

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(10):
            try:
                made.apply()
                captured(made.apply).replay()
                wait()
            except Exception as error:
                found["capture"] += 1
                found["first"] = found["first"] or str(error)[:200]
    finally:
        done.set()
        thread.join()
    return found


def evicting() -> ModuleType:
    """The kernels, with hints to L2 to let go of what was scaled."""
    source = Path(kernels.__file__ or "").read_text("utf-8")
    load, store = "tl.load(block + lanes)", "limit, ELEMENT))\n"
    assert source.count(load) == 1, "the kernel's text has changed: change this too"
    source = source.replace(load, 'tl.load(block + lanes, eviction_policy="evict_first")')
    at = source.index("evict_first")
    source = source[:at] + source[at:].replace(store, 'limit, ELEMENT), eviction_policy="evict_first")\n', 1)
    path = Path(tempfile.mkdtemp()) / "evicting_kernels.py"  # Triton reads its source from the file
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def tuned(chunk: int, warps: int, wave_mib: int | None, *, evict: bool = False) -> Iterator[None]:
    """Another shortest chunk (elements), number of warps, size of a wave, or kernel, for what is made within."""
    changes: dict[str, Any] = {"OPTIONS": {**kernels.OPTIONS, "num_warps": warps}}
    if evict:
        changes["step_kernel"] = evicting().step_kernel
    with patch.object(plan, "SHORTEST_CHUNK", chunk), patch.multiple(launcher, **changes):
        yield


def model(width: int, dtype: torch.dtype) -> list[nn.Parameter]:
    shapes = [(70, 70), (70_001,)] if options.cpu else transformer(1e9, width)
    made = [parameter(*shape, dtype=dtype) for shape in shapes]
    for each in made:
        each.grad = torch.randn_like(each)
    return made


def sweep(width: int, dtype: torch.dtype) -> Found:
    """Device times of captured steps, as fractions of a clip's."""
    ours = model(width, dtype)
    made = that_writes(ours)
    methods: dict[str, Callable[[], object]] = {}
    chosen = itertools.product((8192, 16_384, 65_536), (4, 8), (None, 12, 24, 48), (False,))
    for chunk, warps, wave, evict in [*chosen, (8192, 8, 24, True)]:
        with tuned(chunk, warps, wave, evict=evict):
            bytes_ = None if wave is None else wave << 20
            tried = launcher.MultiTensor(list(ours), made._statistics, made.rows, made.settings.mode, bytes_)

            def step(tried: launcher.MultiTensor = tried) -> None:
                tried.step(made.settings.mode, True, None, None)

            if options.cpu:
                if evict or (chunk, warps, wave) == (8192, 8, 24):
                    step()
                continue
            name = f"chunk {chunk}, {warps} warps, wave {wave}" + (", evict" if evict else "")
            methods[name] = captured(step).replay  # a graph: the options are those of now
    if options.cpu:
        return "ran"
    methods["clip"] = captured(lambda: nn.utils.clip_grad_norm_(ours, 1.0, foreach=True)).replay
    times = milliseconds(methods, options.rounds, 2)
    fractions = {name: round(ms / times["clip"], 3) for name, ms in sorted(times.items(), key=lambda each: each[1])}
    return {"clip ms": times["clip"], "of clip": fractions}


def main() -> int:
    if not options.cpu and not torch.cuda.is_available():
        print("gpu_first.py needs a CUDA device: torch sees none. --cpu is a dry run.", file=sys.stderr)
        return 2
    if options.one_step:
        that_writes(model(2048, getattr(torch, options.one_step)))
        wait()
        return 0
    found: dict[str, Any] = {"device": str(DEVICE) if options.cpu else torch.cuda.get_device_name()}
    found |= {"torch": torch.__version__}
    checks: dict[str, Callable[[], object]] = {} if options.cpu else {"proof": lambda: proof(DEVICE)}
    for check in (both_paths, unaligned, exchanged_memory, default_device, waits, loss_scaling, shards):
        checks[check.__name__] = check
    for width in (2048, 1024):
        for name in ("float32", "bfloat16"):
            checks[f"{name}, width {width}"] = functools.partial(sweep, width, getattr(torch, name))
    checks |= {"huge": huge, "capture beside the reader": capture_beside_the_reader}
    failed = False
    for name, run in checks.items():
        start = time.perf_counter()
        try:
            found[name] = run()
        except Exception as error:
            traceback.print_exc()
            found[name], failed = f"error: {type(error).__name__}: {str(error)[:300]}", True
        print(f"{name} ({time.perf_counter() - start:.0f} s): {json.dumps(found[name])}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
