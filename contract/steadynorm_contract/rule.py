"""The stabilizer's rule in plain floats: norm in, scale out. The executable specification.

Source: "GradientStabilizer: Fix the Norm, Not the Gradient", arXiv 2502.17055 v3 (ICML 2026), with four additions
that a live service needs: tracked weights instead of 1 - gamma**t, `spike_limit`, `spike_fade`, and bumpless transfer.
The page docs/algorithm.md derives them. The agent's device code is tested against this file.

What a spike is stands here too, and nowhere else: a norm above SPIKE_RATIO times the tensor's baseline. The baseline
is a running mean of the norms that no spike can raise much, apart from the rule's own statistics: after a spike of
10,000 times those would not notice another one for thousands of steps. docs/decisions/0012 compares the choices.
"""

import math
from dataclasses import dataclass

from steadynorm_contract.settings import Mode, Settings, Transfer

__all__ = [
    "BASELINE_DECAY",
    "BASELINE_LIMIT",
    "BASELINE_WEIGHT",
    "RECOVERED_TARGET",
    "SPIKE_RATIO",
    "THROTTLED_SHARE",
    "THROTTLED_TARGET",
    "Outcome",
    "TensorState",
    "advance",
    "fade",
    "is_throttled",
    "reset",
    "spike_ceiling",
    "spike_memory",
    "target",
]

SPIKE_RATIO = 10.0
"""A norm above this multiple of its baseline is a spike."""

BASELINE_DECAY = 0.9
"""Of the baseline, which follows a lasting tenfold rise or fall within 25 steps."""

BASELINE_LIMIT = 3.0
"""A norm enters the baseline as at most this multiple of it: a spike, however large, raises it by a fifth."""

BASELINE_WEIGHT = 0.4
"""The baseline's weight from which on it counts, that of five norms: before, nothing is a spike."""

THROTTLED_TARGET = 0.3
"""A target below this makes updates too small: throttled where a spike in the statistics is the cause, `is_throttled`;
where none is, the norms fall faster than gamma2 forgets, as they do in most runs' first steps."""

THROTTLED_SHARE = 0.4
"""The largest share of the second moment without spikes, `TensorState.calm_share`, at which those throttle."""

RECOVERED_TARGET = 1.1 * THROTTLED_TARGET
"""Hysteresis, so that a target at the threshold is not an event every step."""


@dataclass(slots=True)
class TensorState:
    """Statistics of one parameter tensor. All are floats in the unit of the gradient (or its square)."""

    norm_sum: float = 0.0  # decayed sum of the samples, gamma1
    norm_weight: float = 0.0  # decayed sum of 1, gamma1
    square_sum: float = 0.0  # decayed sum of the squared samples, gamma2
    square_weight: float = 0.0  # decayed sum of 1, gamma2
    baseline_sum: float = 0.0  # decayed sum of the norms, limited, BASELINE_DECAY
    baseline_weight: float = 0.0  # decayed sum of 1, BASELINE_DECAY
    calm_square_sum: float = 0.0  # as square_sum, of samples limited to what is no spike
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

    @property
    def baseline(self) -> float:
        """What a norm is compared with to tell a spike; infinite while there are too few norms."""
        return self.baseline_sum / self.baseline_weight if self.baseline_weight > BASELINE_WEIGHT else math.inf

    @property
    def calm_share(self) -> float:
        """The share of square_sum that there would be without spikes, 0 to 1; 1 before the first sample."""
        return self.calm_square_sum / self.square_sum if self.square_sum > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Effect of one step on one tensor. The new gradient is `scale` times the old one, except where `zeroed`."""

    raw_norm: float
    scale: float
    target: float
    spike_ratio: float  # raw_norm over the baseline before this step; 0 where there was none
    calm_share: float  # of the second moment, see `TensorState`
    zeroed: bool  # the gradient was not finite and becomes exactly zero: select, since 0 times NaN is NaN
    fade: float = 1.0  # factor of `spike_fade` in `scale`; 1: the step counts in full

    @property
    def stabilized_norm(self) -> float:
        """Norm of the gradient that the optimizer sees."""
        return 0.0 if self.zeroed else self.raw_norm * self.scale


def target(norm_mean: float, norm_rms: float, eps: float) -> float:
    """The stabilized magnitude, mean norm over RMS norm: about 1 in calm training. 1 before the first sample."""
    return norm_mean / (norm_rms + eps) if norm_rms > 0 else 1.0


def is_throttled(target: float, calm_share: float) -> bool:
    """Whether a target is below THROTTLED_TARGET because of spikes in the statistics, which about halve it or more.

    The target is proportional to the root of the share, in which a spike still counts as SPIKE_RATIO baselines.
    """
    return target < THROTTLED_TARGET and calm_share <= THROTTLED_SHARE


def fade(raw_norm: float, norm_rms: float, baseline: float, spike_limit: float) -> float:
    """Factor on the target under `spike_fade`: the square of the largest norm that counts in full, over this norm.

    That norm is spike_limit times the RMS norm, or times the baseline where it is larger: both of before this step. The
    baseline follows a lasting rise within some ten steps, and so ends the fading. 1 while it is infinite.
    """
    return min(1.0, spike_limit * max(norm_rms, baseline) / raw_norm) ** 2


def spike_memory(ratio: float, gamma2: float, step: int) -> float:
    """Steps for which a spike can hold the target below THROTTLED_TARGET: ln(share * ratio**2 / 10) / -ln(gamma2).

    step: of the spike, since the statistics began: its share of the second moment is 1 / step at first.
    """
    share = max(1.0 - gamma2, 1.0 / max(step, 1))
    excess = share * ratio * ratio * THROTTLED_TARGET**2 / (1.0 - THROTTLED_TARGET**2)
    return math.log(excess) / -math.log(gamma2) if excess > 1 and gamma2 > 0 else 0.0


def spike_ceiling(gamma1: float, gamma2: float) -> float:
    """Target that a spike approaches in steady state as its size grows without bound: (1-gamma1) / sqrt(1-gamma2).

    A finite spike can exceed it a little: its largest target is the root of ceiling**2 + gamma1**2 / gamma2.
    """
    return (1.0 - gamma1) / math.sqrt(1.0 - gamma2)


def reset(state: TensorState) -> None:
    """Reset the statistics. Unit and gain stay, so that the update size does not jump; so does the baseline."""
    state.norm_sum = state.norm_weight = state.square_sum = state.square_weight = state.calm_square_sum = 0.0


def advance(
    state: TensorState,
    raw_norm: float,
    settings: Settings,
    previous_mode: Mode,
    clip: float = 1.0,
    usual_clip: float = 1.0,
) -> Outcome:
    """One optimizer step of one tensor: updates `state`, returns the effect on the gradient.

    raw_norm: L2 norm of the whole, unscaled gradient; 0 for a tensor without a gradient, which updates nothing.
    previous_mode: the mode of the step before, which shows whether the mode changes in this step.
    clip: in mode `clip`, the factor on all gradients, see `clipping`; 0: they become zero.
    usual_clip: the mean factor of the clip until this step, which a change between it and `stabilize` carries over.
    """
    measuring = settings.mode is not Mode.OFF
    finite = math.isfinite(raw_norm)
    previous_rms, baseline = state.norm_rms, state.baseline
    valid = measuring and finite and raw_norm > 0
    if valid:
        sample = raw_norm
        if settings.spike_limit is not None and previous_rms > 0:
            sample = min(sample, settings.spike_limit * previous_rms)
        state.norm_sum = settings.gamma1 * state.norm_sum + (1 - settings.gamma1) * sample
        state.norm_weight = settings.gamma1 * state.norm_weight + (1 - settings.gamma1)
        state.square_sum = settings.gamma2 * state.square_sum + (1 - settings.gamma2) * sample * sample
        state.square_weight = settings.gamma2 * state.square_weight + (1 - settings.gamma2)
        calm = min(sample, SPIKE_RATIO * baseline)
        state.calm_square_sum = settings.gamma2 * state.calm_square_sum + (1 - settings.gamma2) * calm * calm
        limited = min(raw_norm, BASELINE_LIMIT * baseline)
        state.baseline_sum = BASELINE_DECAY * state.baseline_sum + (1 - BASELINE_DECAY) * limited
        state.baseline_weight = BASELINE_DECAY * state.baseline_weight + (1 - BASELINE_DECAY)
        state.updates += 1
    elif measuring and not finite:
        state.nonfinite += 1

    _switch(state, settings, previous_mode, usual_clip)

    aim = target(state.norm_mean, state.norm_rms, settings.eps)
    ratio = raw_norm / baseline if valid else 0.0
    if settings.mode is not Mode.STABILIZE:
        return Outcome(raw_norm, state.gain * clip, aim, ratio, state.calm_share, zeroed=clip == 0)
    scale = state.unit * aim / raw_norm if valid else 1.0
    share = 1.0
    if valid and settings.spike_fade and settings.spike_limit is not None:
        share = fade(raw_norm, previous_rms, baseline, settings.spike_limit)
    return Outcome(raw_norm, scale * share, aim, ratio, state.calm_share, zeroed=not finite, fade=share)


def _switch(state: TensorState, settings: Settings, previous_mode: Mode, usual_clip: float) -> None:
    """Bumpless transfer: carry the output scale over a change of mode, with the RMS norm after this step's update."""
    if settings.transfer is Transfer.PLAIN:
        state.unit = state.gain = 1.0
        return
    entering = settings.mode is Mode.STABILIZE and previous_mode is not Mode.STABILIZE
    leaving = settings.mode is not Mode.STABILIZE and previous_mode is Mode.STABILIZE
    rms = state.norm_rms
    if entering:
        if previous_mode is Mode.CLIP:
            state.gain *= usual_clip
        state.unit = state.gain * rms if 0 < rms < math.inf else state.gain
    elif leaving:
        if 0 < rms < math.inf:
            state.gain = state.unit / rms
        if settings.mode is Mode.CLIP:
            state.gain /= usual_clip
