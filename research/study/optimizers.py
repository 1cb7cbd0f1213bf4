"""The optimizers of the study, and the learning rates that are tried with each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

__all__ = ["OPTIMIZERS", "RATES", "Lion", "make"]


class Lion(Optimizer):
    """Chen et al., arXiv 2302.06675, algorithm 2: the sign of a momentum, so that a gradient's size hardly counts."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "betas": (0.9, 0.99), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure is used
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"]
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(torch.sign(momentum.lerp(parameter.grad, 1 - beta1)), alpha=group["lr"])
                momentum.lerp_(parameter.grad, 1 - beta2)


class Muon:
    """Jordan, kellerjordan.github.io/posts/muon: a matrix is moved by its momentum with all singular values near 1;
    what is no matrix by AdamW. Updates have the size of AdamW's (arXiv 2502.16982), so that both take one rate.

    In float32, unlike torch's, whose bfloat16 takes five times as long on a CPU.
    """

    STEPS, A, B, C = 5, 3.4445, -4.7750, 2.0315

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        listed = list(parameters)
        self._matrices = [parameter for parameter in listed if parameter.ndim == 2]
        self._momenta = [torch.zeros_like(parameter) for parameter in self._matrices]
        self._lr, self._decay = lr, weight_decay
        others = [parameter for parameter in listed if parameter.ndim != 2]
        self._others = torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay) if others else None

    def zero_grad(self) -> None:
        for parameter in self._matrices:
            parameter.grad = None
        if self._others:
            self._others.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        for parameter, momentum in zip(self._matrices, self._momenta, strict=True):
            if parameter.grad is None:
                continue
            momentum.lerp_(parameter.grad, 0.05)
            update = self._orthogonal(parameter.grad.lerp(momentum, 0.95))  # Nesterov's
            parameter.mul_(1 - self._lr * self._decay)
            parameter.add_(update, alpha=-0.2 * self._lr * max(parameter.shape) ** 0.5)
        if self._others:
            self._others.step()

    def _orthogonal(self, matrix: torch.Tensor) -> torch.Tensor:
        """By Newton and Schulz's iteration."""
        turned = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
        found = turned / turned.norm().clamp(min=1e-7)
        for _ in range(self.STEPS):
            square = found @ found.T
            found = self.A * found + (self.B * square + self.C * square @ square) @ found
        return found.T if turned is not matrix else found


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adamw": torch.optim.AdamW,
    "adamw 0.95": lambda parameters, **options: torch.optim.AdamW(parameters, betas=(0.9, 0.95), **options),
    "sgd": lambda parameters, **options: torch.optim.SGD(parameters, momentum=0.9, **options),
    "lion": Lion,
    "muon": Muon,
}

RATES: dict[str, tuple[float, ...]] = {
    "adamw": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "sgd": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0),
    "adamw 0.95": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "muon": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "lion": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
}
"""Half a decade apart, from too slow to too fast for most."""


def make(name: str, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Any:
    """An optimizer by its name. Raises KeyError for another one."""
    options: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    return OPTIMIZERS[name](parameters, **options)
