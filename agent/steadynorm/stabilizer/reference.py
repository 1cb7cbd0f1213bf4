"""The reference, one tensor at a time: torch measures the norm, the contract's `rule` decides, torch scales.

The fast path is tested against it; read it first. It reads values on the host, so it is too slow for training on an
accelerator.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from steadynorm_contract import rule
from steadynorm_contract.settings import Settings, merge


class ReferenceStabilizer:
    """The executable specification. Its methods are those of `GradientStabilizer`, as far as both have them."""

    def __init__(self, named_parameters: Iterable[tuple[str, torch.Tensor]], settings: Settings | None = None) -> None:
        self.parameters = dict(named_parameters)
        self.settings = settings or Settings()
        self.states = {name: rule.TensorState() for name in self.parameters}
        self.outcomes: dict[str, rule.Outcome] = {}
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
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            # float64 for the sum of squares: the reference must not share the fast path's rounding.
            norm = 0.0 if gradient is None else float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
            outcome = rule.advance(self.states[name], norm, self.settings, self._previous_mode)
            self.outcomes[name] = outcome
            if gradient is None:
                continue
            if outcome.zeroed:
                gradient.zero_()
            elif outcome.scale != 1.0:
                gradient.mul_(outcome.scale)
        self._previous_mode = self.settings.mode
        self._fresh = False

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
