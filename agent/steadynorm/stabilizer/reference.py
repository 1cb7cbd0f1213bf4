"""The reference, one tensor at a time: torch measures the norm, the contract's `rule` decides, torch scales.

The fast path is tested against it; read it first. It reads values on the host, so it is too slow for training on an
accelerator.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from steadynorm_contract import rule
from steadynorm_contract.clipping import RecentNorms, UsualFactor, clip_factor
from steadynorm_contract.settings import Mode, Settings, merge


class ReferenceStabilizer:
    """The executable specification. Its methods are those of `GradientStabilizer`, as far as both have them."""

    def __init__(self, named_parameters: Iterable[tuple[str, torch.Tensor]], settings: Settings | None = None) -> None:
        self.parameters = dict(named_parameters)
        self.settings = settings or Settings()
        self.states = {name: rule.TensorState() for name in self.parameters}
        self.outcomes: dict[str, rule.Outcome] = {}
        self.recent, self.usual = RecentNorms(), UsualFactor()
        self._previous_mode = self.settings.mode
        self._fresh = True

    def configure(self, **changes: object) -> None:
        """Takes effect at the next apply()."""
        self.settings = merge(self.settings, changes)
        if self._fresh:  # before the first step there is no scale to carry over
            self._previous_mode = self.settings.mode

    def reset(self) -> None:
        """Drop the statistics, keep unit and gain."""
        for state in self.states.values():
            rule.reset(state)

    @torch.no_grad()
    def apply(self) -> None:
        """Stabilize each parameter's `.grad` in place."""
        # float64 for the sum of squares: the reference must not share the fast path's rounding.
        norms = {
            name: 0.0
            if parameter.grad is None
            else float(torch.linalg.vector_norm(parameter.grad, dtype=torch.float64))
            for name, parameter in self.parameters.items()
        }
        usual = 1.0 if self.usual.value is None else self.usual.value
        clip = self._clip(math.hypot(*norms.values()))
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            outcome = rule.advance(self.states[name], norms[name], self.settings, self._previous_mode, clip, usual)
            self.outcomes[name] = outcome
            if gradient is None:
                continue
            if outcome.zeroed:
                gradient.zero_()
            elif outcome.scale != 1.0:
                gradient.mul_(outcome.scale)
        self._previous_mode = self.settings.mode
        self._fresh = False

    def _clip(self, total: float) -> float:
        """The factor of mode `clip` on all gradients."""
        limit = self.settings.clip_norm
        if self.settings.mode is not Mode.CLIP:
            return 1.0
        if isinstance(limit, str):
            limit = self.recent.limit(total)
            self.recent.add(min(total, limit))
        else:
            self.recent = RecentNorms()
        factor = clip_factor(total, limit)
        self.usual.add(factor)
        return factor

    def statistics(self) -> dict[str, dict[str, float]]:
        """As `GradientStabilizer.statistics()`."""
        return {
            name: {
                "raw_norm": outcome.raw_norm,
                "stabilized_norm": outcome.stabilized_norm,
                "norm_mean": self.states[name].norm_mean,
                "norm_rms": self.states[name].norm_rms,
                "target": outcome.target,
                "scale": 0.0 if outcome.zeroed else outcome.scale,
                "updates": self.states[name].updates,
                "nonfinite": self.states[name].nonfinite,
            }
            for name, outcome in self.outcomes.items()
        }
