"""Every parameter's statistics as float32 vectors on one device, and the rule as operations on whole vectors.

The same rule as `steadynorm_contract.rule`, which is the place to read it. Every decision is a tensor, nothing is
looked at on the host, and a step fills buffers that were allocated once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steadynorm_contract.settings import Mode, Settings

__all__ = ["STATE_FIELDS", "Knobs", "Statistics"]

STATE_FIELDS = ("norm_sum", "norm_weight", "square_sum", "square_weight", "unit", "gain", "updates", "nonfinite")
"""What belongs to a checkpoint. Counts are float32 like the rest: exact up to 16 million."""

_FLOATS = len(STATE_FIELDS) + 20
_LARGEST_SAMPLE = 1.8e19  # its square is still finite in float32
_SMALLEST_WEIGHT = 1e-30  # in place of zero, so that a tensor without samples has mean 0 instead of NaN


class Knobs:
    """Live settings as tensors on the device, filled in place: a change allocates nothing there."""

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(10, device=device)
        self.decays = self.values[:4].view(4, 1)  # gamma1, gamma1, gamma2, gamma2
        self.sample_weights = self.values[4:8].view(4, 1)  # 1 - each of these
        self.spike_limit, self.eps = self.values[8:]
        constants = torch.tensor([0.0, 1.0, _LARGEST_SAMPLE], device=device)
        self.zero, self.one, self.largest = constants

    def fill(self, settings: Settings) -> None:
        """Take over new settings."""
        decays = [settings.gamma1, settings.gamma1, settings.gamma2, settings.gamma2]
        # 1 - gamma is taken in double precision: 1 - float32(0.999) is off by 1e-5.
        values = [*decays, *(1 - decay for decay in decays), settings.spike_limit or torch.inf, settings.eps]
        self.values.copy_(torch.tensor(values), non_blocking=True)


class Statistics:
    """Statistics of P parameters. `slice` gives a part of them that shares the memory.

    All attributes are views of two matrices, float32 [_FLOATS, P] and bool [3, P], one row or a few each.
    """

    def __init__(self, floats: Tensor, flags: Tensor, knobs: Knobs) -> None:
        self._floats, self._flags, self.knobs = floats, flags, knobs
        self.state = floats[: len(STATE_FIELDS)]  # [8, P], in STATE_FIELDS order
        self.sums = self.state[:4]  # [4, P]: norm_sum, norm_weight, square_sum, square_weight
        self.unit, self.gain, self.updates, self.nonfinite = self.state[4:]
        rest = floats[len(STATE_FIELDS) :]
        self.moments = rest[:2]  # [2, P]: norm_mean, norm_rms
        self.norm_mean, self.norm_rms = self.moments
        self.raw_norm, self.target, self.scale, self.spike_ratio, self._previous_rms, self._broken = rest[2:8]
        self._samples = rest[8:12]  # [4, P]: sample, 1, sample squared, 1
        self._masked_decays = rest[12:16]  # [4, P]: gamma where the sample is valid, else 1
        self._masked_weights = rest[16:20]  # [4, P]: 1 - gamma where the sample is valid, else 0
        self.finite, self._valid, self._has_previous = flags  # finite: the newest norm is neither NaN nor infinite

    @classmethod
    def allocate(cls, count: int, device: torch.device) -> Statistics:
        """Fresh statistics: unit and gain 1, no samples."""
        flags = torch.zeros(3, count, dtype=torch.bool, device=device)
        statistics = cls(torch.zeros(_FLOATS, count, device=device), flags, Knobs(device))
        for ones in (statistics.unit, statistics.gain, statistics.target, statistics._samples[1::2]):
            ones.fill_(1.0)
        return statistics

    def slice(self, start: int, stop: int) -> Statistics:
        """The parameters start..stop - 1, in the same memory."""
        return Statistics(self._floats[:, start:stop], self._flags[:, start:stop], self.knobs)

    def update(self) -> None:
        """Take the newest `raw_norm` of every parameter into the statistics."""
        raw, valid, knobs = self.raw_norm, self._valid, self.knobs
        torch.lt(raw, torch.inf, out=self.finite)  # false for NaN too
        torch.gt(raw, 0.0, out=valid).logical_and_(self.finite)
        self._previous_rms.copy_(self.norm_rms)
        torch.gt(self._previous_rms, 0.0, out=self._has_previous).logical_and_(valid)

        sample = self._samples[0]
        torch.mul(self._previous_rms, knobs.spike_limit, out=sample)
        torch.where(self._has_previous, sample, knobs.largest, out=sample)
        torch.minimum(sample, raw, out=sample).clamp_max_(_LARGEST_SAMPLE)
        torch.where(valid, sample, knobs.zero, out=sample)  # a weight of 0 would not stop a NaN
        torch.mul(sample, sample, out=self._samples[2])
        # Not a lerp: with gamma = 1e-8, 1 - gamma is 1 in float32, and a spike of 1e6 would lose its tail.
        torch.mul(knobs.sample_weights, valid, out=self._masked_weights)
        torch.where(valid, knobs.decays, knobs.one, out=self._masked_decays)
        self.sums.mul_(self._masked_decays).addcmul_(self._samples, self._masked_weights)
        self.refresh()

        torch.div(raw, self._previous_rms, out=self.spike_ratio)
        torch.where(self._has_previous, self.spike_ratio, knobs.zero, out=self.spike_ratio)
        self.updates.add_(valid)
        torch.logical_not(self.finite, out=self._broken)
        self.nonfinite.add_(self._broken)

    def refresh(self) -> None:
        """Recompute norm_mean, norm_rms and target from the sums."""
        sums_and_weights = self.sums.view(2, 2, -1)
        torch.clamp_min(sums_and_weights[:, 1], _SMALLEST_WEIGHT, out=self.moments)
        torch.div(sums_and_weights[:, 0], self.moments, out=self.moments)
        self.norm_rms.sqrt_()
        torch.add(self.norm_rms, self.knobs.eps, out=self.target)
        torch.div(self.norm_mean, self.target, out=self.target)
        torch.where(self.norm_rms > 0, self.target, self.knobs.one, out=self.target)

    def hand_over(self, mode: Mode, previous: Mode) -> None:
        """Bumpless transfer: carry the output scale over a change of mode. Rare, so it may allocate."""
        usable = (self.norm_rms > 0) & (self.norm_rms < torch.inf)
        if mode is Mode.STABILIZE:
            self.unit.copy_(torch.where(usable, self.gain * self.norm_rms, self.gain))
        elif previous is Mode.STABILIZE:
            self.gain.copy_(torch.where(usable, self.unit / self.norm_rms, self.gain))

    def decide(self, mode: Mode) -> None:
        """Set `scale`: what each gradient is multiplied by. 0 stands for `make it zero`, see `finite`."""
        if mode is not Mode.STABILIZE:
            self.scale.copy_(self.gain)
            return
        # unit * target / norm where the sample is valid; 1 for a zero gradient; 0 for a non-finite one.
        torch.mul(self.unit, self.target, out=self.scale).div_(self.raw_norm)
        torch.where(self._valid, self.scale, torch.rsub(self._broken, 1.0), out=self.scale)
