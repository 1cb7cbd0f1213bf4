"""The stabilizer's rule in plain floats: norm in, scale out. The executable specification.

Source: "GradientStabilizer: Fix the Norm, Not the Gradient", arXiv 2502.17055 v3 (ICML 2026), with three additions
that a live service needs: tracked weights instead of 1 - gamma**t, `spike_limit`, and bumpless transfer. The page
docs/algorithm.md derives them. The agent's device code is tested against this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from steadynorm_contract.settings import Mode, Settings, Transfer

__all__ = ["SPIKE_RATIO", "THROTTLED_TARGET", "Outcome", "TensorState", "advance", "reset", "spike_ceiling", "target"]

SPIKE_RATIO = 10.0
"""A norm above this multiple of the previous RMS norm is a spike."""

THROTTLED_TARGET = 0.3
"""A target below this means that an old spike in the statistics makes updates too small (throttled)."""


@dataclass(slots=True)
class TensorState:
    """Statistics of one parameter tensor. All are floats in the unit of the gradient (or its square)."""

    norm_sum: float = 0.0  # decayed sum of the samples, gamma1
    norm_weight: float = 0.0  # decayed sum of 1, gamma1
    square_sum: float = 0.0  # decayed sum of the squared samples, gamma2
    square_weight: float = 0.0  # decayed sum of 1, gamma2
    unit: float = 1.0  # output scale in stabilize
    gain: float = 1.0  # output scale in pass-through
    updates: int = 0
    nonfinite: int = 0

    @property
    def norm_mean(self) -> float:
        """Estimate of E||g||; 0 before the first sample."""
        return self.norm_sum / self.norm_weight if self.norm_weight > 0 else 0.0

    @property
    def norm_rms(self) -> float:
        """Estimate of sqrt(E||g||^2); 0 before the first sample."""
        return math.sqrt(self.square_sum / self.square_weight) if self.square_weight > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Effect of one step on one tensor. The new gradient is `scale` times the old one, except where `zeroed`."""

    raw_norm: float
    scale: float
    target: float
    spike_ratio: float  # raw_norm over the RMS norm before this step; 0 where there was none
    zeroed: bool  # the gradient was not finite and becomes exactly zero: select, since 0 times NaN is NaN

    @property
    def stabilized_norm(self) -> float:
        """Norm of the gradient that the optimizer sees."""
        return 0.0 if self.zeroed else self.raw_norm * self.scale


def target(norm_mean: float, norm_rms: float, eps: float) -> float:
    """The stabilized magnitude, mean norm over RMS norm: about 1 in calm training. 1 before the first sample."""
    return norm_mean / (norm_rms + eps) if norm_rms > 0 else 1.0


def spike_ceiling(gamma1: float, gamma2: float) -> float:
    """Target that a spike approaches in steady state as its size grows without bound: (1-gamma1) / sqrt(1-gamma2).

    A finite spike can exceed it a little: its largest target is the root of ceiling**2 + gamma1**2 / gamma2.
    """
    return (1.0 - gamma1) / math.sqrt(1.0 - gamma2)


def reset(state: TensorState) -> None:
    """Reset the statistics. Unit and gain stay, so that the update size does not jump."""
    state.norm_sum = state.norm_weight = state.square_sum = state.square_weight = 0.0


def advance(state: TensorState, raw_norm: float, settings: Settings, previous_mode: Mode) -> Outcome:
    """One optimizer step of one tensor: updates `state`, returns the effect on the gradient.

    raw_norm: L2 norm of the whole, unscaled gradient; 0 for a tensor without a gradient, which updates nothing.
    previous_mode: the mode of the step before, which shows whether the mode changes in this step.
    """
    measuring = settings.mode is not Mode.OFF
    finite = math.isfinite(raw_norm)
    previous_rms = state.norm_rms
    valid = measuring and finite and raw_norm > 0
    if valid:
        sample = raw_norm
        if settings.spike_limit is not None and previous_rms > 0:
            sample = min(sample, settings.spike_limit * previous_rms)
        state.norm_sum = settings.gamma1 * state.norm_sum + (1 - settings.gamma1) * sample
        state.norm_weight = settings.gamma1 * state.norm_weight + (1 - settings.gamma1)
        state.square_sum = settings.gamma2 * state.square_sum + (1 - settings.gamma2) * sample * sample
        state.square_weight = settings.gamma2 * state.square_weight + (1 - settings.gamma2)
        state.updates += 1
    elif measuring and not finite:
        state.nonfinite += 1

    _switch(state, settings, previous_mode)

    aim = target(state.norm_mean, state.norm_rms, settings.eps)
    ratio = raw_norm / previous_rms if valid and previous_rms > 0 else 0.0
    if settings.mode is not Mode.STABILIZE:
        return Outcome(raw_norm, state.gain, aim, ratio, zeroed=False)
    scale = state.unit * aim / raw_norm if valid else 1.0
    return Outcome(raw_norm, scale, aim, ratio, zeroed=not finite)


def _switch(state: TensorState, settings: Settings, previous_mode: Mode) -> None:
    """Bumpless transfer: carry the output scale over a change of mode, with the RMS norm after this step's update."""
    if settings.transfer is Transfer.PLAIN:
        state.unit = state.gain = 1.0
        return
    entering = settings.mode is Mode.STABILIZE and previous_mode is not Mode.STABILIZE
    leaving = settings.mode is not Mode.STABILIZE and previous_mode is Mode.STABILIZE
    rms = state.norm_rms
    if entering:
        state.unit = state.gain * rms if 0 < rms < math.inf else state.gain
    elif leaving and 0 < rms < math.inf:
        state.gain = state.unit / rms
