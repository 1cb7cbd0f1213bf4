"""Clipping by the total norm, `mode=clip`, in plain floats: the limit, and the factor on every gradient.

The factor is that of torch.nn.utils.clip_grad_norm_ (Pascanu et al., arXiv 1211.5063). `clip_norm=auto` takes the
limit from recent total norms by the z-score rule of ZClip (arXiv 2504.02507) with its defaults: alpha 0.97, z 2.5, 25
steps of warm-up, reciprocal clipping. The agent's device code is tested against this file.
"""

import math
from dataclasses import dataclass

__all__ = ["ALPHA", "AUTO", "CLIP_EPS", "USUAL_DECAY", "WARM_UP", "RecentNorms", "UsualFactor", "Z", "clip_factor"]

AUTO = "auto"
"""The value of clip_norm that stands for ZClip's limit."""

ALPHA, Z, WARM_UP = 0.97, 2.5, 25
USUAL_DECAY = 0.9
"""Of the mean of the factor: as that of the baseline in `rule`."""
CLIP_EPS = 1e-6
"""Added to the total norm, as torch does, and to the standard deviation, as ZClip does."""


def clip_factor(total: float, limit: float) -> float:
    """Factor on every gradient: min(1, limit / total). 0, so that gradients become zero, where total is not finite."""
    return min(1.0, limit / (total + CLIP_EPS)) if math.isfinite(total) else 0.0


@dataclass(slots=True)
class UsualFactor:
    """Decayed mean of the clip's factor."""

    value: float | None = None

    def add(self, factor: float) -> None:
        """The factor of one more step; 0, of gradients that are not finite, does not count."""
        if self.value is None:
            self.value = factor or 1.0
        elif factor:
            self.value += (1 - USUAL_DECAY) * (factor - self.value)


@dataclass(slots=True)
class RecentNorms:
    """Decayed mean and variance of total norms, which ZClip compares the next one with."""

    mean: float = 0.0
    variance: float = 0.0
    steps: int = 0  # at most WARM_UP

    def limit(self, total: float) -> float:
        """The norm that `total` is reduced to; infinite where it stays."""
        deviation = math.sqrt(self.variance)
        z = (total - self.mean) / (deviation + CLIP_EPS)
        return self.mean + Z * Z / z * deviation if self.steps >= WARM_UP and Z < z < math.inf else math.inf

    def add(self, total: float) -> None:
        """The norm of one more step, as it was after the clip. One that is not finite does not count."""
        if not math.isfinite(total):
            return
        off = total - self.mean
        if self.steps < WARM_UP:
            count = self.steps + 1
            mean = self.mean + off / count
            self.variance = (self.steps * self.variance + off * (total - mean)) / count
            self.mean, self.steps = mean, count
        else:
            self.variance = ALPHA * self.variance + (1 - ALPHA) * off * off
            self.mean = ALPHA * self.mean + (1 - ALPHA) * total
