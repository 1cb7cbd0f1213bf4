"""What is done to the gradients between backward() and the optimizer's step, by name; each in a few lines, with source.

method = make("zclip", named_parameters)
method.apply()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import nn

from steadynorm import GradientStabilizer
from steadynorm.stabilizer.statistics import RING_COLUMNS
from steadynorm_contract.settings import Settings
from study.reviewers_methods import MedianReference, SkipStep, StableAdamW, StableSPAM

__all__ = ["ASKED_FOR", "METHODS", "RULES", "AdaGC", "Method", "Stabilizer", "ZClip", "make"]

Named = Iterable[tuple[str, nn.Parameter]]


class Method(Protocol):
    """Changes `.grad` in place, once an optimizer step."""

    def apply(self) -> None: ...

    @property
    def state_bytes(self) -> int: ...


class _Stateless:
    @property
    def state_bytes(self) -> int:
        """What it remembers from step to step."""
        return 0

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters


class Nothing(_Stateless):
    """Gradients as they are."""

    def apply(self) -> None:
        return


class NormClip(_Stateless):
    """`torch.nn.utils.clip_grad_norm_`: Pascanu et al., arXiv 1211.5063."""

    def __init__(self, parameters: list[nn.Parameter], limit: float) -> None:
        super().__init__(parameters)
        self.limit = limit

    def apply(self) -> None:
        nn.utils.clip_grad_norm_(self.parameters, self.limit)


class ValueClip(_Stateless):
    """`torch.nn.utils.clip_grad_value_`: each element by itself, so that directions change."""

    def __init__(self, parameters: list[nn.Parameter], limit: float) -> None:
        super().__init__(parameters)
        self.limit = limit

    def apply(self) -> None:
        nn.utils.clip_grad_value_(self.parameters, self.limit)


class ZClip(_Stateless):
    """ZClip, arXiv 2504.02507, with its defaults: alpha 0.97, z 2.5, warm-up 25 steps, reciprocal clipping.

    Without the fixed limit that its released code can set on top of it.
    """

    ALPHA, Z, WARM_UP = 0.97, 2.5, 25

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters)
        self._seen: list[float] = []
        self._mean = self._variance = 0.0

    @property
    def state_bytes(self) -> int:
        """Two numbers."""
        return 8

    def apply(self) -> None:
        norm = float(nn.utils.get_total_norm(p.grad for p in self.parameters if p.grad is not None))
        if not norm < float("inf"):
            return
        if len(self._seen) < self.WARM_UP:
            self._seen.append(norm)
            self._mean = sum(self._seen) / len(self._seen)
            self._variance = sum((one - self._mean) ** 2 for one in self._seen) / len(self._seen)
            return
        deviation = self._variance**0.5
        z = (norm - self._mean) / (deviation + 1e-6)
        if z > self.Z:
            clipped = self._mean + self.Z**2 / z * deviation
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(clipped / norm)
            norm = clipped
        self._variance = self.ALPHA * self._variance + (1 - self.ALPHA) * (norm - self._mean) ** 2
        self._mean = self.ALPHA * self._mean + (1 - self.ALPHA) * norm


class AdaGC(_Stateless):
    """AdaGC, arXiv 2502.11034, algorithm 1: each tensor's norm is held below 1.05 times its own decayed mean (0.98).

    The warm-up, in which the global norm is held below 1, is 25 steps instead of 100: these runs are short.
    """

    RELATIVE, DECAY, WARM_UP = 1.05, 0.98, 25

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters)
        self._mean = [float("inf")] * len(parameters)
        self._steps = 0

    @property
    def state_bytes(self) -> int:
        """One number a tensor."""
        return 4 * len(self.parameters)

    def apply(self) -> None:
        self._steps += 1
        warming = self._steps <= self.WARM_UP
        if warming:
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(grads)).tolist() if grads else []
        at = (index for index, p in enumerate(self.parameters) if p.grad is not None)
        for index, grad, norm in zip(at, grads, norms, strict=True):
            if not 0 < norm < float("inf"):
                continue
            if warming:
                self._mean[index] = min(self._mean[index], norm)
                continue
            factor = min(self.RELATIVE * self._mean[index] / norm, 1.0)
            grad.mul_(factor)
            self._mean[index] = self.DECAY * self._mean[index] + (1 - self.DECAY) * factor * norm


class Stabilizer:
    """The paper's rule, arXiv 2502.17055, as this repository has it, with what it adds. See docs/algorithm.md."""

    def __init__(self, named: list[tuple[str, nn.Parameter]], settings: Settings) -> None:
        self.stabilizer = GradientStabilizer(
            named,
            gamma1=settings.gamma1,
            gamma2=settings.gamma2,
            spike_limit=settings.spike_limit,
            spike_fade=settings.spike_fade,
        )
        self.state_bytes = sum(row.nbytes for row in self.stabilizer.state_dict()["parameters"].values())

    def apply(self) -> None:
        self.stabilizer.apply()

    def smallest_target(self) -> float:
        """Of all tensors, after the last apply()."""
        return float(self.stabilizer.rows[:, RING_COLUMNS.index("target")].min())


def _plain(kind: Callable[..., Method], *arguments: float) -> Callable[[list[tuple[str, nn.Parameter]]], Method]:
    return lambda named: kind([parameter for _, parameter in named], *arguments)


def _rule(settings: Settings) -> Callable[[list[tuple[str, nn.Parameter]]], Method]:
    return lambda named: Stabilizer(named, settings)


RULES = {
    "paper": Settings(),
    "paper, limit 3": Settings(spike_limit=3.0),
    "paper, limit 10": Settings(spike_limit=10.0),
    "paper, 0.7/0.9": Settings(gamma1=0.7, gamma2=0.9),
    "paper, 0.85/0.99999": Settings(gamma1=0.85, gamma2=0.99999),
    "robust": Settings(spike_limit=3.0, spike_fade=True),
}
"""The stabilizer's settings by the name of the method that has them."""

ASKED_FOR: dict[str, Callable[[list[tuple[str, nn.Parameter]]], Method]] = {
    "stable-spam": _plain(StableSPAM),
    "stable-adamw": _plain(StableAdamW),
    "skip step": _plain(SkipStep),
    "median 33": _plain(MedianReference, False),
    "median 33, fade": _plain(MedianReference, True),
}
"""Those of one question alone."""

METHODS: dict[str, Callable[[list[tuple[str, nn.Parameter]]], Method]] = {
    "nothing": _plain(Nothing),
    "clip 0.1": _plain(NormClip, 0.1),
    "clip 1": _plain(NormClip, 1.0),
    "clip 10": _plain(NormClip, 10.0),
    "value clip 0.1": _plain(ValueClip, 0.1),
    "zclip": _plain(ZClip),
    "adagc": _plain(AdaGC),
    **{name: _rule(settings) for name, settings in RULES.items()},
    **ASKED_FOR,
}
"""Every method by the name that tables show."""


def make(name: str, named: Named) -> Method:
    """A method for these parameters. Raises KeyError for a name that is none of METHODS."""
    return METHODS[name](list(named))
