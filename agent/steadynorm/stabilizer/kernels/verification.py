"""Compares the kernels with `reference.py` on the device where they are to run: a few small tensors, ten steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from steadynorm.stabilizer.kernels.launcher import MultiTensor
from steadynorm.stabilizer.kernels.triton import BLOCK, CHUNK
from steadynorm.stabilizer.reference import ReferenceStabilizer
from steadynorm.stabilizer.statistics import RING_COLUMNS, Statistics
from steadynorm_contract.settings import Settings

TOLERANCE = 1e-5
SIZES = (1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * CHUNK + BLOCK + 3)
WAVE_BYTES = 4 * CHUNK  # small: the steps have several waves
CHANGES: dict[int, dict[str, object]] = {
    2: {"gamma2": 0.9, "spike_limit": 3.0},
    4: {"mode": "observe"},
    5: {"mode": "stabilize"},
    7: {"mode": "off", "eps": 1e-3},
    8: {"mode": "stabilize", "transfer": "plain", "spike_limit": None},
}
"""By step: each setting and each mode."""
STEPS = 10


@torch.no_grad()
def differences(device: torch.device) -> list[str]:
    """Differences from the reference, a sentence each; empty if there are none. Waits for the device."""
    settings = Settings()
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    parameters: list[Tensor] = [nn.Parameter(torch.zeros(n, dtype=t, device=device)) for t in dtypes for n in SIZES]
    models = [nn.Parameter(torch.zeros_like(parameter)) for parameter in parameters]
    reference = ReferenceStabilizer(((str(index), model) for index, model in enumerate(models)), settings)
    statistics = Statistics.allocate(len(parameters), device)
    rows = torch.zeros(len(parameters), len(RING_COLUMNS), device=device)
    kernels = MultiTensor(parameters, statistics, rows, settings.mode, WAVE_BYTES)
    found: list[str] = []
    for step in range(STEPS):
        reference.configure(**CHANGES.get(step, {}))
        statistics.settings.fill(reference.settings)
        for index, (ours, theirs) in enumerate(zip(parameters, models, strict=True)):
            theirs.grad = _gradient(ours, step, index)
            ours.grad = None if theirs.grad is None else theirs.grad.clone()
        kernels.step(reference.settings.mode, True, None, None)
        reference.apply()
        scales = rows[:, RING_COLUMNS.index("scale")].tolist()
        for index, (ours, theirs) in enumerate(zip(parameters, models, strict=True)):
            outcome = reference.outcomes[str(index)]
            what = f"step {step}, {ours.dtype} of {ours.numel()} elements"
            if not _close(scales[index], 0.0 if outcome.zeroed else outcome.scale):
                found.append(f"{what}: scale {scales[index]!r} instead of {outcome.scale!r}")
            elif ours.grad is not None and theirs.grad is not None:
                error = gradient_error(ours.grad, theirs.grad)
                if not error <= TOLERANCE:
                    found.append(f"{what}: gradient off by {error:.2g} of itself")
    return found


def _gradient(like: Tensor, step: int, index: int) -> Tensor | None:
    if (step + index) % 7 == 3:
        return None
    generator = torch.Generator().manual_seed(100 * step + index)
    values = torch.randn(like.shape, generator=generator) * (50.0 if (step, index % 2) == (3, 0) else 0.1)
    if (step + index) % 5 == 4:
        values[step * 31 % len(values)] = (math.nan, math.inf)[step % 2]
    return values.to(like)


def gradient_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest relative difference; infinite where one value is not finite and the other differs.

    For a half-precision gradient, beyond one rounding step of its dtype: scales differ in their last digits, then each
    product is rounded.
    """
    step = 0.0 if ours.dtype is torch.float32 else torch.finfo(ours.dtype).eps
    ours, theirs, smallest = ours.double(), theirs.double(), torch.finfo(ours.dtype).smallest_normal * step
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    error = ((ours - theirs).abs() - smallest) / theirs.abs() - step
    return float(torch.where(same, 0.0, error.nan_to_num(torch.inf, torch.inf)).clamp_min(0.0).max())


def _close(value: float, expected: float) -> bool:
    return math.isclose(value, expected, rel_tol=TOLERANCE, abs_tol=1e-30)
