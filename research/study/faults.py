"""Planted spikes: gradients that are some factor too large in one step, of some tensors, in their own direction or not.

Fault.parse("100/all/kept/150")     from step 150 on, once: all tensors' gradients 100 times as large
Fault.parse("1000/one/random/150")  one tensor's: 1000 times as large, and in a random direction

The one is a matrix: a bias, which most tensors are, would hardly matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

__all__ = ["DIRECTIONS", "EXTENTS", "Fault"]

EXTENTS = ("one", "30%", "all")
DIRECTIONS = ("kept", "random")


@dataclass(frozen=True, slots=True)
class Fault:
    """A spike in step `at`, counted from 0."""

    factor: float
    extent: str
    direction: str
    at: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """From FACTOR/EXTENT/DIRECTION/AT; None from "". Raises ValueError for anything else."""
        if not text:
            return None
        factor, extent, direction, at = text.split("/")
        if extent not in EXTENTS or direction not in DIRECTIONS:
            raise ValueError(f"a fault is FACTOR/{'|'.join(EXTENTS)}/{'|'.join(DIRECTIONS)}/AT: got {text!r}")
        return cls(float(factor), extent, direction, int(at))

    def plant(self, step: int, parameters: list[nn.Parameter], generator: torch.Generator) -> None:
        """Change the gradients if this is the step. The tensors are chosen by `generator`, for all methods alike."""
        if step != self.at:
            return
        if self.extent == "one":
            parameters = [parameter for parameter in parameters if parameter.ndim > 1] or parameters
        count = {"one": 1, "30%": max(1, round(0.3 * len(parameters))), "all": len(parameters)}[self.extent]
        for index in torch.randperm(len(parameters), generator=generator)[:count].tolist():
            grad = parameters[index].grad
            if grad is None:
                continue
            if self.direction == "random":
                noise = torch.randn(grad.shape, generator=generator)
                grad.copy_(noise * (grad.norm() / noise.norm()))
            grad.mul_(self.factor)
