"""Compares the kernels with `reference.py` on the device where they are to run: a few small tensors, twelve steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from steadynorm.stabilizer.kernels.launcher import MultiTensor
from steadynorm.stabilizer.kernels.plan import BLOCK, SHORTEST_CHUNK
from steadynorm.stabilizer.reference import ReferenceStabilizer
from steadynorm.stabilizer.statistics import RING_COLUMNS, Statistics
from steadynorm.stabilizer.total_clip import TotalClip
from steadynorm_contract.settings import Mode, Settings

TOLERANCE = 1e-5
SIZES = (1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * SHORTEST_CHUNK + BLOCK + 3)
WAVE_BYTES = 4 * SHORTEST_CHUNK  # small: the steps have several waves
CHANGES: dict[int, dict[str, object]] = {
    2: {"gamma2": 0.9, "spike_limit": 3.0, "spike_fade": True},
    4: {"mode": "observe"},
    5: {"mode": "clip", "clip_norm": 0.5},
    6: {"mode": "stabilize"},
    7: {"mode": "clip"},
    8: {"mode": "off", "eps": 1e-3},
    9: {"mode": "stabilize", "transfer": "plain"},
    10: {"mode": "clip", "spike_limit": None},
    11: {"mode": "stabilize"},
}
"""By step: each setting and each mode."""
STEPS = 12
CALM = (5, 7)  # no gradient that is not finite: the total norm is one, too


class _Member:
    """The only one of its clip."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def total_norm(self, grad_scale: Tensor | None) -> Tensor:
        raise NotImplementedError


@torch.no_grad()
def differences(device: torch.device) -> list[str]:
    """Differences from the reference, a sentence each; empty if there are none. Waits for the device."""
    settings = Settings()
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    parameters: list[Tensor] = [nn.Parameter(torch.zeros(n, dtype=t, device=device)) for t in dtypes for n in SIZES]
    models = [nn.Parameter(torch.zeros_like(parameter)) for parameter in parameters]
    reference = ReferenceStabilizer(((str(index), model) for index, model in enumerate(models)), settings)
    statistics = Statistics.allocate(len(parameters), device)
    rows = torch.zeros(len(parameters), len(RING_COLUMNS), dtype=torch.float32, device=device)
    kernels = MultiTensor(parameters, statistics, rows, settings.mode, WAVE_BYTES)
    clip = TotalClip([member := _Member(device)])
    live = statistics.settings
    found: list[str] = []
    for step in range(STEPS):
        reference.configure(**CHANGES.get(step, {}))
        live.fill(reference.settings)
        live.usual_clip.fill_(clip.usual(device))
        raw = [_gradient(parameter, step, index) for index, parameter in enumerate(parameters)]
        for gradient, ours, theirs in zip(raw, parameters, models, strict=True):
            theirs.grad = None if gradient is None else gradient.clone()
            ours.grad = None if gradient is None else _elsewhere_in_memory(gradient, step)
        mode = reference.settings.mode
        clip.begin(member, None)
        factor = (lambda norms: clip.factor(member, norms, live)) if mode is Mode.CLIP else None
        kernels.step(mode, True, None, None, factor)
        reference.apply()
        scales = rows[:, RING_COLUMNS.index("scale")].tolist()
        for index, (ours, gradient) in enumerate(zip(parameters, raw, strict=True)):
            outcome = reference.outcomes[str(index)]
            what = f"step {step}, {ours.dtype} of {ours.numel()} elements"
            if not _close(scales[index], 0.0 if outcome.zeroed else outcome.scale):
                found.append(f"{what}: scale {scales[index]!r} instead of {outcome.scale!r}")
            elif ours.grad is not None and gradient is not None:
                error = gradient_error(ours.grad, gradient, 0.0 if outcome.zeroed else outcome.scale)
                if not error <= TOLERANCE:
                    found.append(f"{what}: gradient off by {error:.2g} of itself")
    return found


def _gradient(like: Tensor, step: int, index: int) -> Tensor | None:
    if (step + index) % 7 == 3:
        return None
    generator = torch.Generator(device="cpu").manual_seed(100 * step + index)
    values = torch.randn(like.shape, generator=generator, dtype=torch.float32, device="cpu")
    values *= 50.0 if (step, index % 2) in ((3, 0), (9, 1)) else 0.1
    if (step + index) % 5 == 4 and step not in CALM:
        values[step * 31 % len(values)] = (math.nan, math.inf)[step % 2]
    return values.to(like)


def _elsewhere_in_memory(gradient: Tensor, step: int) -> Tensor:
    """A copy, in every second step at an address that 16 does not divide, as gradients in a bucket may have one."""
    offset = step % 2
    memory = torch.empty(gradient.numel() + offset, dtype=gradient.dtype, device=gradient.device)
    return memory[offset:].copy_(gradient)


def gradient_error(ours: Tensor, raw: Tensor, scale: float) -> float:
    """How far `ours` is from `raw * scale`, rounded to nearest: relative, the largest; infinite where not finite.

    Scales differ in their last digits, so a product may be rounded either way where it lies within TOLERANCE of the
    middle of two numbers, and only there. Triton's interpreter, which is all that runs on a CPU, cuts off what exceeds
    a half-precision number, and is forgiven that.
    """
    exact = raw.double() * scale if scale else torch.zeros_like(raw, dtype=torch.float64)
    ends = torch.stack([(exact * (1 + side)).to(ours.dtype) for side in (-TOLERANCE, TOLERANCE)]).double()
    least, most, found = ends.amin(0), ends.amax(0), ours.double()
    inside = ((found >= least) & (found <= most)) | (found.isnan() & exact.isnan())
    error = torch.maximum(least - found, found - most) / exact.abs()
    if ours.device.type == "cpu" and ours.dtype is not torch.float32:
        step = torch.finfo(ours.dtype).eps
        error -= step + torch.finfo(ours.dtype).smallest_normal * step / exact.abs()
    return float(torch.where(inside, 0.0, error.nan_to_num(torch.inf, torch.inf)).clamp_min(0.0).max())


def _close(value: float, expected: float) -> bool:
    return math.isclose(value, expected, rel_tol=TOLERANCE, abs_tol=1e-30)
