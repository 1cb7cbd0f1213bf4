"""Every parameter's statistics as float32 vectors on one device, and the rule as operations on whole vectors.

The same rule as `steadynorm_contract.rule`, which is easier to read. Every decision is a tensor, nothing is read on the
host, and a step fills buffers that were allocated once. What is only displayed (totals, counts, the worst parameter) is
computed later, by `summary`, from the rows: for many small tensors a step costs nothing but its calls.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steadynorm_contract.clipping import AUTO
from steadynorm_contract.rule import BASELINE_DECAY, BASELINE_LIMIT, BASELINE_WEIGHT, SPIKE_RATIO
from steadynorm_contract.settings import Mode, Settings, Transfer

STATE_FIELDS = (
    "norm_sum",
    "norm_weight",
    "square_sum",
    "square_weight",
    "unit",
    "gain",
    "updates",
    "nonfinite",
    "baseline_sum",
    "baseline_weight",
    "calm_square_sum",
)
"""The state in a checkpoint. Counts are float32 like the rest: exact up to 16 million. Only ever appended to."""

_BEFORE_BASELINES = 8  # fields in older checkpoints

_SUMS = 7  # of the fields: those that decay, which come first in memory
_SAVED = [0, 1, 2, 3, 7, 8, 9, 10, 4, 5, 6]  # rows in memory, in STATE_FIELDS order
_LOADED = [0, 1, 2, 3, 8, 9, 10, 4, 5, 6, 7]  # the reverse

RING_COLUMNS = ("raw_norm", "norm_mean", "norm_rms", "scale", "spike_ratio", "target", "calm_share", "fade")
"""What a step records of each parameter, uncleaned: see `summary`."""

STATISTICS = (
    "raw_norm",
    "stabilized_norm",
    "norm_mean",
    "norm_rms",
    "target",
    "scale",
    "updates",
    "nonfinite",
)
"""What `statistics()` returns of each parameter."""

NOT_MEASURED = -1.0
"""In place of a norm, in a step that measured none."""

MODE_CODES = {Mode.OFF: 0, Mode.OBSERVE: 1, Mode.STABILIZE: 2, Mode.CLIP: 3}
"""A mode as a number on the device, for the kernels."""

_FLOATS = len(STATE_FIELDS) + 6 + 2 * _SUMS + 1
_SQUARABLE = 1.8e19  # a norm from this on has no finite square in float32, and counts as infinite
_NO_WEIGHT = 1e-30  # in place of zero: negligible beside a sample's weight, and makes a mean without samples 0, not NaN


class DeviceSettings:
    """Live settings as tensors on the device, filled in place: a change allocates nothing there."""

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(24, dtype=torch.float32, device=device)
        self.decays = self.values[:7].view(_SUMS, 1)  # of the sums, in their order
        self.sample_weights = self.values[7:14].view(_SUMS, 1)  # 1 - each of these
        self.spike_limit, self.eps = self.values[14:16]
        self.values[18] = 1.0  # [16:20] are for the kernels: mode, transfer, loss scale, whether the step is skipped
        self.fade_limit = self.values[20]  # spike_limit; infinite where nothing fades
        self.clip_factor, self.usual_clip, self.clip_norm = self.values[21:]  # the newest, see `total_clip`; clip_norm
        self.values[21:23] = 1.0
        self.unknown = torch.tensor(torch.inf, dtype=torch.float32, device=device)  # in place of what is too young
        self.begun = torch.tensor([[0.0], [BASELINE_WEIGHT]], dtype=torch.float32, device=device)
        self.limits = torch.ones(4, 1, dtype=torch.float32, device=device)  # of `Statistics._limits`
        self.limits[2:, 0] = torch.tensor([BASELINE_LIMIT, SPIKE_RATIO], dtype=torch.float32, device="cpu")
        self.fading = False  # whether steps above spike_limit fade, which they do in stabilize
        self.clips_by_recent = False  # whether clip_norm is AUTO

    def fill(self, settings: Settings) -> None:
        """Copy new settings to the device."""
        gamma1, gamma2 = settings.gamma1, settings.gamma2
        decays = [gamma1, gamma1, gamma2, gamma2, BASELINE_DECAY, BASELINE_DECAY, gamma2]
        # 1 - gamma is taken in double precision: 1 - float32(0.999) is off by 1e-5.
        values = [*decays, *(1 - decay for decay in decays), settings.spike_limit or torch.inf, settings.eps]
        values += [MODE_CODES[settings.mode], settings.transfer is Transfer.PLAIN]
        # Pinned, so that the copy need not wait; torch's allocator holds the memory until it is done.
        host = torch.tensor(values, dtype=torch.float32, device="cpu", pin_memory=self.values.is_cuda)
        self.values[: len(values)].copy_(host, non_blocking=True)
        self.limits[:2].fill_(settings.spike_limit or torch.inf)
        self.fading = settings.spike_limit is not None and settings.spike_fade and settings.mode is Mode.STABILIZE
        self.fade_limit.fill_((self.fading and settings.spike_limit) or torch.inf)
        self.clip_factor.fill_(1.0)
        self.clips_by_recent = settings.clip_norm == AUTO
        self.clip_norm.fill_(torch.inf if isinstance(settings.clip_norm, str) else settings.clip_norm)


class Statistics:
    """Statistics of P parameters. `slice` returns a part of them that shares the memory.

    All attributes are views of two matrices, float32 [_FLOATS, P] and bool [5, P], one row or a few each.
    """

    def __init__(self, floats: Tensor, flags: Tensor, settings: DeviceSettings) -> None:
        self.floats, self._flags, self.settings = floats, flags, settings
        self.state = floats[: len(STATE_FIELDS)]  # [11, P], in the order of `rule.TensorState`
        self.sums = self.state[:_SUMS]  # [7, P]
        self.unit, self.gain = self.state[7:9]
        self._counts = self.state[9:]  # [2, P]: updates, nonfinite
        self.raw_norm, self.scale, self.spike_ratio = floats[11:14]
        self.moments = floats[14:17]  # [3, P]: norm_mean, norm_rms, baseline
        self.norm_mean, self.norm_rms, self.baseline = self.moments
        self._samples = floats[17:24]  # [7, P]: sample, 1, sample squared, 1, limited norm, 1, calm sample squared
        self._updated = floats[24:31]  # [7, P]: the sums with the sample, used where it is valid
        self._fade = floats[31]  # factor on the target where settings.fading, else 1
        self._events = flags[:2]  # [2, P]: valid, broken; counted as updates, nonfinite
        self._valid, self._broken, self.finite = flags[:3]
        self.target, self.calm_share = self._updated[:2]  # reuse the memory, which is free once the sums are done
        # Pairs and fours of rows, each of which is one call.
        self._weighted, self._weights = self.sums[0:6:2], self.sums[1:6:2]  # [3, P]: of the moments
        self._square_sum, self._calm_square_sum = self.sums[2], self.sums[6]
        self._spreads = _twice(self.moments[1:])  # [2, 2, P]: norm_rms, baseline
        self._begun_by = self.sums[2:6:3]  # [2, P]: what shows that there is one: square_sum, baseline_weight
        self._begun = flags[3:]  # [2, P]: whether there is
        self._begun_twice = _twice(self._begun)
        # [4, P]: the largest norm that enters as a sample, that counts in full, that enters the baseline, that is calm.
        self._limits = self._samples[::2]
        self._limits_by_spread = self._limits.view(2, 2, -1)
        self._limit_of_fade, self._known_baseline, self._calm_limit = self._limits[1:]
        self._sample, self._calm_sample = self._sample_and_calm = floats[17:25:7]  # the second reuses target's memory
        self._sample_squares = floats[19:24:4]
        self._row_columns = [self.raw_norm, self.norm_mean, self.norm_rms, self.scale]
        self._row_columns += [self.spike_ratio, self.target, self.calm_share, self._fade]

    @classmethod
    def allocate(cls, count: int, device: torch.device) -> Statistics:
        """Fresh statistics: unit and gain 1, no samples."""
        flags = torch.zeros(5, count, dtype=torch.bool, device=device)
        statistics = cls(torch.zeros(_FLOATS, count, dtype=torch.float32, device=device), flags, DeviceSettings(device))
        for ones in (statistics.unit, statistics.gain, statistics._samples[1::2], statistics._fade):
            ones.fill_(1.0)
        statistics.sums[5].fill_(_NO_WEIGHT)
        statistics.drop_samples()
        return statistics

    def slice(self, start: int, stop: int) -> Statistics:
        """The parameters start..stop - 1, in the same memory."""
        return Statistics(self.floats[:, start:stop], self._flags[:, start:stop], self.settings)

    def configure(self, settings: Settings) -> None:
        """New settings, of the whole: a slice shares them."""
        self.settings.fill(settings)
        self._fade.fill_(1.0)

    def drop_samples(self) -> None:
        """Discard the samples; unit, gain and the baseline stay."""
        self.sums[0:4:2].zero_()
        self.sums[1:4:2].fill_(_NO_WEIGHT)
        self.sums[6].zero_()
        self.refresh()

    def save(self) -> Tensor:
        """A copy in host memory, float32 [P, STATE_FIELDS]."""
        state = self.state.cpu().clone()
        weights = state[1:6:2]
        weights[weights <= _NO_WEIGHT] = 0.0
        return state[_SAVED].t()

    def load(self, rows: Tensor) -> None:
        """Restore what `save` returned."""
        self.state.copy_(rows.t()[_LOADED])
        self.sums[1::2].clamp_min_(_NO_WEIGHT)
        self.refresh()

    def unscale(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Under loss scaling, turn `raw_norm` into the true norm; a step with found_inf counts as not measured.

        Both are tensors of one element on this device: the loss scale, and the number of infinite gradients.
        """
        if grad_scale is not None:
            self.raw_norm.div_(grad_scale)
        if found_inf is not None:
            self.raw_norm.masked_fill_(found_inf > 0, NOT_MEASURED)

    def update(self) -> None:
        """Update the statistics with the newest `raw_norm` of every parameter."""
        raw, settings = self.raw_norm, self.settings
        torch.lt(raw, _SQUARABLE, out=self.finite)  # false for NaN too
        torch.logical_not(self.finite, out=self._broken)
        torch.gt(raw, 0.0, out=self._valid).logical_and_(self.finite)
        # Without samples norm_rms is infinite here, and so is a young baseline: no limit, no ratio.
        torch.gt(self._begun_by, settings.begun, out=self._begun)
        torch.where(self._begun_twice, self._spreads, settings.unknown, out=self._limits_by_spread)
        torch.div(raw, self._known_baseline, out=self.spike_ratio)
        if settings.fading:  # as `rule.fade`
            torch.maximum(self._known_baseline, self.norm_rms, out=self._limit_of_fade)
        self._limits.mul_(settings.limits)
        torch.minimum(self._limits, raw, out=self._limits)
        if settings.fading:
            torch.div(self._limit_of_fade, raw, out=self._fade).square_()
        torch.minimum(self._calm_limit, self._sample, out=self._calm_sample)
        torch.mul(self._sample_and_calm, self._sample_and_calm, out=self._sample_squares)
        # Not a lerp: with gamma = 1e-8, 1 - gamma is 1 in float32, and a spike of 1e6 would lose its tail.
        torch.mul(self.sums, settings.decays, out=self._updated).addcmul_(self._samples, settings.sample_weights)
        torch.where(self._valid, self._updated, self.sums, out=self.sums)
        self._counts.add_(self._events)
        self.refresh()

    def refresh(self) -> None:
        """Recompute what follows from the sums. Means and target are 0 where there are no samples, calm_share NaN."""
        torch.div(self._weighted, self._weights, out=self.moments)
        self.norm_rms.sqrt_()
        torch.add(self.norm_rms, self.settings.eps, out=self.target)
        torch.div(self.norm_mean, self.target, out=self.target)
        torch.div(self._calm_square_sum, self._square_sum, out=self.calm_share)

    def transfer_scale(self, mode: Mode, previous: Mode, *, plain: bool) -> None:
        """Bumpless transfer: carry the output scale over a change of mode. Rare, so it may allocate."""
        if plain:
            self.unit.fill_(1.0)
            self.gain.fill_(1.0)
        if plain or mode is previous:
            return
        usable = (self.norm_rms > 0) & (self.norm_rms < torch.inf)
        if mode is Mode.STABILIZE:
            self.unit.copy_(torch.where(usable, self.gain * self.norm_rms, self.gain))
        elif previous is Mode.STABILIZE:
            self.gain.copy_(torch.where(usable, self.unit / self.norm_rms, self.gain))

    def decide(self, mode: Mode) -> None:
        """Set `scale`: what each gradient is multiplied by. 0: it becomes zero, see `finite`."""
        if mode is not Mode.STABILIZE:
            self.scale.copy_(self.gain)
            return
        # unit * target / norm where the sample is valid; 1 for a zero gradient; 0 for a non-finite one.
        torch.mul(self.unit, self.target, out=self.scale).div_(self.raw_norm)
        if self.settings.fading:
            self.scale.mul_(self._fade)
        torch.where(self._valid, self.scale, self.finite, out=self.scale)

    def pass_through_where(self, failed: Tensor, *, plain: bool) -> None:
        """If `failed` (bool, 0-dim), pass gradients through with the magnitude that stabilizing gave them so far."""
        usable = (self.norm_rms > 0) & (self.norm_rms < torch.inf)
        pass_through = self.gain if plain else torch.where(usable, self.unit / self.norm_rms, self.gain)
        torch.where(failed, pass_through, self.scale, out=self.scale)

    def write_rows(self, out: Tensor) -> None:
        """Write RING_COLUMNS into `out`, float32 [P, columns]."""
        torch.stack(self._row_columns, dim=1, out=out)


def _twice(rows: Tensor) -> Tensor:
    """Each row two times: [N, P] as [N, 2, P], in the same memory."""
    return rows.unsqueeze(1).expand(-1, 2, -1)


def upgraded(saved: object) -> Tensor:
    """One parameter's saved state, float32 [STATE_FIELDS] in host memory; from older versions, without a baseline."""
    row = torch.as_tensor(saved, dtype=torch.float32, device="cpu")
    if row.shape == (_BEFORE_BASELINES,):  # the baseline begins afresh, and of earlier spikes nothing is known
        row = torch.cat([row, row.new_zeros(2), row[2:3]])
    if row.shape != (len(STATE_FIELDS),):
        raise ValueError(f"stabilizer state must have {len(STATE_FIELDS)} numbers a parameter: got {tuple(row.shape)}.")
    return row
