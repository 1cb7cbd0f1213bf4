"""What a test's ranks can be given to cope with: calls that raise, and an optimizer that asks its closure twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class Twice(torch.optim.Optimizer):
    """Evaluates its closure twice a step, as a line search or a sharpness-aware optimizer does."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    def step(self, closure: Callable[[], Any]) -> None:  # type: ignore[override]  # without one there is nothing to do
        closure()
        closure()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.add_(parameter.grad, alpha=-group["lr"])


def break_it(agent: Any, place: str, *, once: bool) -> None:
    """The next call there raises; so do all later ones, unless once."""
    *path, name = place.split(".")
    target = agent
    for part in path:
        target = target[int(part)] if isinstance(target, list | tuple) else getattr(target, part)
    real, calls = getattr(target, name), []

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if once and len(calls) > 1:
            return real(*args, **kwargs)
        raise ArithmeticError("injected")

    setattr(target, name, broken)
