"""For gpu_step.py: the same gradients for the kernels and for the reference, and how far apart they end.

Gradients stay where they are in memory, so that a captured graph can be replayed over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from steadynorm import GradientStabilizer
from steadynorm.stabilizer.reference import ReferenceStabilizer

__all__ = ["CHANGES", "Figures", "compare", "named", "pair"]

CHANGES: dict[int, dict[str, object]] = {
    4: {"gamma2": 0.99},
    7: {"mode": "observe"},
    10: {"mode": "stabilize", "spike_limit": 3.0},
    13: {"mode": "off"},
    15: {"mode": "stabilize", "gamma1": 0.9},
    18: {"transfer": "plain"},
}
"""By step, for the sections that compare with the reference."""

Figures = dict[str, object]


def pair(shapes: list[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> tuple[list[nn.Parameter], ...]:
    """Two equal lists of parameters with gradients that stay where they are."""
    lists = tuple([nn.Parameter(torch.zeros(s, dtype=dtype, device=device)) for s in shapes] for _ in range(2))
    for parameter in (*lists[0], *lists[1]):
        parameter.grad = torch.zeros_like(parameter)
    return lists


def draw(ours: list[nn.Parameter], theirs: list[nn.Parameter], step: int) -> None:
    """The same new gradients for both, in place. Some steps have a spike, some a NaN."""
    for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        assert our.grad is not None
        assert their.grad is not None
        generator = torch.Generator(device=our.device).manual_seed(1000 * step + index)
        their.grad.normal_(generator=generator).mul_(100.0 if step == 12 else 0.1)
        if step == 16 and index == 1:
            their.grad.view(-1)[0] = math.nan
        our.grad.copy_(their.grad)


def named(parameters: list[nn.Parameter]) -> list[tuple[str, nn.Parameter]]:
    return [(f"p{index}", parameter) for index, parameter in enumerate(parameters)]


def compare(
    apply: Callable[[], object],
    stabilizer: GradientStabilizer,
    ours: list[nn.Parameter],
    theirs: list[nn.Parameter],
    steps: int = 22,
) -> Figures:
    """Largest errors against the reference, relative to each norm, scale and gradient, over steps with live changes."""
    from steadynorm.stabilizer.kernels.verification import gradient_error

    reference = ReferenceStabilizer(named(theirs), stabilizer.settings)
    norm_error = scale_error = gradients_error = 0.0
    for step in range(steps):
        stabilizer.configure(**CHANGES.get(step, {}))
        reference.configure(**CHANGES.get(step, {}))
        draw(ours, theirs, step)
        raw = [their.grad.clone() for their in theirs if their.grad is not None]
        apply()
        reference.apply()
        exact = reference.statistics()
        for name, quick in stabilizer.statistics().items():
            if math.isfinite(exact[name]["raw_norm"]) and stabilizer.settings.mode != "off":
                norm_error = max(norm_error, abs(quick["raw_norm"] / exact[name]["raw_norm"] - 1))
            if exact[name]["scale"]:
                scale_error = max(scale_error, abs(quick["scale"] / exact[name]["scale"] - 1))
        for our, gradient, outcome in zip(ours, raw, reference.outcomes.values(), strict=True):
            assert our.grad is not None
            error = gradient_error(our.grad, gradient, 0.0 if outcome.zeroed else outcome.scale)
            gradients_error = max(gradients_error, error)
    return {"norm": norm_error, "scale": scale_error, "gradient": gradients_error}
