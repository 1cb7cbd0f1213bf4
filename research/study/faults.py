"""Planted faults: gradients some factor too large in certain steps, of some tensors, in their own direction or not.

Fault.parse("100/all/kept/150")          once, in step 150: all tensors' gradients 100 times as large
Fault.parse("1000/one/random/150")       one tensor's: 1000 times as large, and in a random direction
Fault.parse("100/all/random/150/10")     ten steps in a row
Fault.parse("30/all/random/20/end/20")   every 20th step, to the end
Fault.parse("10/all/kept/150/end")       a lasting rise
Fault.parse("10/batch/labels/20/end/20") every 20th batch has shuffled labels and ten times the weight

The one tensor is a matrix: a bias, which most tensors are, would hardly matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

__all__ = ["DIRECTIONS", "EXTENTS", "Fault"]

EXTENTS = ("one", "30%", "all")
DIRECTIONS = ("kept", "random")
_KINDS = {*((extent, direction) for extent in EXTENTS for direction in DIRECTIONS), ("batch", "labels")}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that begins in step `at`, counted from 0, and happens `count` times, every so many steps."""

    factor: float
    extent: str
    direction: str
    at: int
    count: float = 1
    every: int = 1

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """From FACTOR/EXTENT/DIRECTION/AT[/COUNT[/EVERY]]; None from "". Raises ValueError for anything else."""
        if not text:
            return None
        factor, extent, direction, at, *rest = text.split("/")
        if (extent, direction) not in _KINDS:
            raise ValueError(
                f"a fault is FACTOR/{'|'.join(EXTENTS)}/{'|'.join(DIRECTIONS)}/AT[/COUNT[/EVERY]], or "
                f"FACTOR/batch/labels/AT[/COUNT[/EVERY]]: got {text!r}"
            )
        count, every = [*rest, "1", "1"][0], [*rest, "1", "1"][1]
        return cls(float(factor), extent, direction, int(at), math.inf if count == "end" else int(count), int(every))

    def happens(self, step: int) -> bool:
        """Whether this step is one of its steps."""
        times, left = divmod(step - self.at, self.every)
        return left == 0 and 0 <= times < self.count

    def spoils(self, step: int) -> bool:
        """Whether the batch of this step is bad."""
        return self.extent == "batch" and self.happens(step)

    def plant(self, step: int, parameters: list[nn.Parameter], generator: torch.Generator) -> None:
        """Change the gradients if this is the step. The tensors are chosen by `generator`, for all methods alike."""
        if self.extent == "batch" or not self.happens(step):
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
