"""Fewer bits: float16 by autocast with a GradScaler, and 4-bit floats simulated in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PRECISIONS", "autocast", "fp4", "simulate_fp4"]

PRECISIONS = ("float32", "float16", "fp4")

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_BLOCK = 16


def fp4(values: Tensor) -> Tensor:
    """The nearest E2M1 numbers, with one scale a block of 16 along the last dimension (as NVFP4, whose scale is itself
    rounded to 8 bits; here it is not). Gradients pass straight through."""
    size = values.shape[-1]
    padded = functional.pad(values.detach(), (0, -size % _BLOCK))
    blocks = padded.unflatten(-1, (-1, _BLOCK))
    scale = blocks.abs().amax(-1, keepdim=True).clamp_min(1e-12) / _E2M1[-1]
    grid = values.new_tensor(_E2M1)
    nearest = torch.bucketize(blocks.abs() / scale, (grid[1:] + grid[:-1]) / 2)
    rounded = (grid[nearest] * scale * blocks.sign()).flatten(-2)[..., :size]
    return torch.add(values, rounded - values.detach())


class _FP4Linear(nn.Module):
    """A linear layer whose weights and inputs have 4 bits. Shares its parameters with the layer it replaces."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(fp4(inputs), fp4(self.weight), self.bias)


def simulate_fp4(model: nn.Module) -> None:
    """Replace every linear layer of `model` but its head, as low-bit training does. Parameters keep their names."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name != "head":
                setattr(module, name, _FP4Linear(child))


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """The forward pass's context."""
    if precision != "float16":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.float16)
