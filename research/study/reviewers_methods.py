"""The methods that a reviewer asks for beside clipping: parts of optimizers, a skipped step, another reference."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any

import torch
from torch import nn

__all__ = ["AroundStep", "MedianReference", "SkipStep", "StableAdamW", "StableSPAM"]


class AroundStep:
    """A method that needs more than gradients: the loss of the step, and the optimizer before and after it."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.optimizer: Any = None
        self.loss = math.nan
        self.skips = False
        """Whether this step is not to be taken."""

    @property
    def state_bytes(self) -> int:
        """What it remembers from step to step."""
        return 0

    def apply(self) -> None:
        """Before the optimizer's step."""

    def after(self) -> None:
        """After it."""

    def _grads(self) -> list[tuple[int, torch.Tensor]]:
        return [(at, each.grad) for at, each in enumerate(self.parameters) if each.grad is not None]


class StableSPAM(AroundStep):
    """Stable-SPAM whole, arXiv 2502.17055 v1 and v2: elements limited by a decayed maximum (0.999), the norm rule at
    0.7/0.9, and Adam's moments set to zero, here every 100 steps instead of 1000, since the runs are short.
    """

    THETA, GAMMA1, GAMMA2, RESET = 0.999, 0.7, 0.9, 100

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters)
        self._maximum = [0.0] * len(parameters)
        self._mean = [0.0] * len(parameters)
        self._square = [0.0] * len(parameters)
        self._steps = 0

    @property
    def state_bytes(self) -> int:
        """Three numbers a tensor."""
        return 12 * len(self.parameters)

    @torch.no_grad()
    def apply(self) -> None:
        self._steps += 1
        seen = self._steps
        if seen % self.RESET == 0:
            self._forget()
        for at, grad in self._grads():
            largest = float(grad.abs().max())
            if not 0 < largest < math.inf:
                continue
            self._maximum[at] = self.THETA * self._maximum[at] + (1 - self.THETA) * largest
            limit = self._maximum[at] / (1 - self.THETA**seen)
            if largest > limit:
                torch.where(grad.abs() > limit, grad / largest * limit, grad, out=grad)
            norm = float(grad.norm())
            self._mean[at] = self.GAMMA1 * self._mean[at] + (1 - self.GAMMA1) * norm
            self._square[at] = self.GAMMA2 * self._square[at] + (1 - self.GAMMA2) * norm**2
            mean, square = self._mean[at] / (1 - self.GAMMA1**seen), self._square[at] / (1 - self.GAMMA2**seen)
            grad.mul_(mean / (math.sqrt(square) + 1e-8) / norm)

    def _forget(self) -> None:
        for state in self.optimizer.state.values() if self.optimizer is not None else ():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name].zero_()
            state["step"].zero_()


class StableAdamW(AroundStep):
    """StableAdamW, arXiv 2304.13013, algorithm 2: AdamW whose rate is divided, tensor by tensor, by the root mean of g²
    over the second moment where that is above 1. As a method it scales the difference that AdamW's step made.
    """

    @property
    def state_bytes(self) -> int:
        """Nothing beside AdamW's own."""
        return 0

    @torch.no_grad()
    def apply(self) -> None:
        self._before = [each.detach().clone() for each in self.parameters]

    @torch.no_grad()
    def after(self) -> None:
        _, beta2 = self.optimizer.param_groups[0]["betas"]
        for at, grad in self._grads():
            state = self.optimizer.state[self.parameters[at]]
            second = state["exp_avg_sq"] / (1 - beta2 ** float(state["step"]))
            ratio = float((grad.square() / second.clamp(min=1e-16)).mean().sqrt())
            if ratio > 1:
                self.parameters[at].copy_(self._before[at].lerp(self.parameters[at], 1 / ratio))


class SkipStep(AroundStep):
    """OLMo-core's SkipStepOptimizer, with its constants: no step, and no change of the optimizer's state, where loss or
    total norm is more than 6 standard deviations from the mean of the last 128, from the 64th step on.
    """

    LENGTH, SIGMA = 128, 6.0

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters)
        self._losses: deque[float] = deque(maxlen=self.LENGTH)
        self._norms: deque[float] = deque(maxlen=self.LENGTH)

    @property
    def state_bytes(self) -> int:
        """Two numbers for each of the last steps."""
        return 8 * self.LENGTH

    def apply(self) -> None:
        norm = float(nn.utils.get_total_norm(grad for _, grad in self._grads()))
        self.skips = len(self._losses) + 1 >= self.LENGTH // 2 and not (
            self._usual(self._losses, self.loss) and self._usual(self._norms, norm)
        )
        self._losses.append(self.loss)
        self._norms.append(norm)

    def _usual(self, before: deque[float], now: float) -> bool:
        return abs(now - statistics.fmean(before)) <= self.SIGMA * statistics.stdev(before)


class MedianReference(AroundStep):
    """Ours, a candidate: as the paper's rule, but the reference r is the median of the tensor's last 33 norms, and a
    sample counts as at most 2 r. fades: a step above that is multiplied by (2 r / n)², too.
    """

    LENGTH, LIMIT, GAMMA1 = 33, 2.0, 0.6

    def __init__(self, parameters: list[nn.Parameter], fades: float) -> None:
        super().__init__(parameters)
        self._fades = bool(fades)
        self._norms: list[deque[float]] = [deque(maxlen=self.LENGTH) for _ in parameters]
        self._sum, self._weight = [0.0] * len(parameters), [0.0] * len(parameters)

    @property
    def state_bytes(self) -> int:
        """The norms, and two numbers."""
        return 4 * (self.LENGTH + 2) * len(self.parameters)

    @torch.no_grad()
    def apply(self) -> None:
        for at, grad in self._grads():
            norm = float(grad.norm())
            if not 0 < norm < math.inf:
                continue
            limit = self.LIMIT * statistics.median(self._norms[at]) if self._norms[at] else math.inf
            self._norms[at].append(norm)
            self._sum[at] = self.GAMMA1 * self._sum[at] + (1 - self.GAMMA1) * min(norm, limit)
            self._weight[at] = self.GAMMA1 * self._weight[at] + (1 - self.GAMMA1)
            target = self._sum[at] / self._weight[at] / statistics.median(self._norms[at])
            if self._fades:
                target *= min(1.0, limit / norm) ** 2
            grad.mul_(target / norm)
