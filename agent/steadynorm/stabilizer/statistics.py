"""Every parameter's statistics as float32 vectors on one device, and the rule as operations on whole vectors.

The same rule as `steadynorm_contract.rule`, which is easier to read. Every decision is a tensor, nothing is read on the
host, and a step fills buffers that were allocated once. What is only displayed (totals, counts, the worst parameter) is
computed later, by `summary`, from the rows: for many small tensors a step costs nothing but its calls.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steadynorm_contract.settings import Mode, Settings, Transfer

STATE_FIELDS = ("norm_sum", "norm_weight", "square_sum", "square_weight", "unit", "gain", "updates", "nonfinite")
"""The state in a checkpoint. Counts are float32 like the rest: exact up to 16 million."""

RING_COLUMNS = ("raw_norm", "norm_mean", "norm_rms", "scale", "spike_ratio", "target")
"""What a step records of each parameter, uncleaned: see `summary`."""

NOT_MEASURED = -1.0
"""In place of a norm, in a step that measured none."""

MODE_CODES = {Mode.OFF: 0, Mode.OBSERVE: 1, Mode.STABILIZE: 2}
"""A mode as a number on the device, for the kernels."""

_FLOATS = len(STATE_FIELDS) + 13
_SQUARABLE = 1.8e19  # a norm from this on has no finite square in float32, and counts as infinite
_NO_WEIGHT = 1e-30  # in place of zero: negligible beside a sample's weight, and makes a mean without samples 0, not NaN


class DeviceSettings:
    """Live settings as tensors on the device, filled in place: a change allocates nothing there."""

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(14, device=device)
        self.decays = self.values[:4].view(4, 1)  # gamma1, gamma1, gamma2, gamma2
        self.sample_weights = self.values[4:8].view(4, 1)  # 1 - each of these
        self.spike_limit, self.eps = self.values[8:10]
        self.values[12] = 1.0  # [10:14] are for the kernels: mode, transfer, loss scale, whether the step is skipped
        self.largest = torch.tensor(_SQUARABLE, device=device)
        self.limited = False  # whether there is a spike_limit

    def fill(self, settings: Settings) -> None:
        """Copy new settings to the device."""
        decays = [settings.gamma1, settings.gamma1, settings.gamma2, settings.gamma2]
        # 1 - gamma is taken in double precision: 1 - float32(0.999) is off by 1e-5.
        values = [*decays, *(1 - decay for decay in decays), settings.spike_limit or torch.inf, settings.eps]
        values += [MODE_CODES[settings.mode], settings.transfer is Transfer.PLAIN]
        # Pinned, so that the copy need not wait; torch's allocator holds the memory until it is done.
        self.values[:12].copy_(torch.tensor(values, pin_memory=self.values.is_cuda), non_blocking=True)
        self.limited = settings.spike_limit is not None


class Statistics:
    """Statistics of P parameters. `slice` returns a part of them that shares the memory.

    All attributes are views of two matrices, float32 [_FLOATS, P] and bool [3, P], one row or a few each.
    """

    def __init__(self, floats: Tensor, flags: Tensor, settings: DeviceSettings) -> None:
        self.floats, self._flags, self.settings = floats, flags, settings
        self.state = floats[: len(STATE_FIELDS)]  # [8, P], in STATE_FIELDS order
        self.sums = self.state[:4]  # [4, P]: norm_sum, norm_weight, square_sum, square_weight
        self.unit, self.gain = self.state[4:6]
        self._counts = self.state[6:]  # [2, P]: updates, nonfinite
        self.raw_norm, self.scale, self.spike_ratio = floats[8:11]
        self.moments = floats[11:13]  # [2, P]: norm_mean, norm_rms
        self.norm_mean, self.norm_rms = self.moments
        self._samples = floats[13:17]  # [4, P]: sample, 1, sample squared, 1
        self._updated = floats[17:21]  # [4, P]: the sums with the sample, used where it is valid
        self._events = flags[:2]  # [2, P]: valid, broken; counted as updates, nonfinite
        self._valid, self._broken, self.finite = flags
        self.target = self._updated[0]  # reuses the memory, which is free once the sums are done

    @classmethod
    def allocate(cls, count: int, device: torch.device) -> Statistics:
        """Fresh statistics: unit and gain 1, no samples."""
        flags = torch.zeros(3, count, dtype=torch.bool, device=device)
        statistics = cls(torch.zeros(_FLOATS, count, device=device), flags, DeviceSettings(device))
        for ones in (statistics.unit, statistics.gain, statistics._samples[1::2]):
            ones.fill_(1.0)
        statistics.drop_samples()
        return statistics

    def slice(self, start: int, stop: int) -> Statistics:
        """The parameters start..stop - 1, in the same memory."""
        return Statistics(self.floats[:, start:stop], self._flags[:, start:stop], self.settings)

    def drop_samples(self) -> None:
        """Discard the samples; unit and gain stay."""
        self.sums[::2].zero_()
        self.sums[1::2].fill_(_NO_WEIGHT)
        self.refresh()

    def save(self) -> Tensor:
        """A copy in host memory, float32 [P, STATE_FIELDS]."""
        rows = self.state.t().cpu().clone()
        weights = rows[:, 1:4:2]
        weights[weights <= _NO_WEIGHT] = 0.0
        return rows

    def load(self, rows: Tensor) -> None:
        """Restore what `save` returned."""
        self.state.copy_(rows.t())
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
        raw, settings, sample = self.raw_norm, self.settings, self._samples[0]
        torch.lt(raw, _SQUARABLE, out=self.finite)  # false for NaN too
        torch.logical_not(self.finite, out=self._broken)
        torch.gt(raw, 0.0, out=self._valid).logical_and_(self.finite)
        torch.div(raw, self.norm_rms, out=self.spike_ratio)
        if settings.limited:
            torch.mul(self.norm_rms, settings.spike_limit, out=sample)
            torch.where(self.norm_rms > 0, sample, settings.largest, out=sample)
            torch.minimum(sample, raw, out=sample)
        else:
            sample.copy_(raw)
        torch.mul(sample, sample, out=self._samples[2])
        # Not a lerp: with gamma = 1e-8, 1 - gamma is 1 in float32, and a spike of 1e6 would lose its tail.
        torch.mul(self.sums, settings.decays, out=self._updated).addcmul_(self._samples, settings.sample_weights)
        torch.where(self._valid, self._updated, self.sums, out=self.sums)
        self._counts.add_(self._events)
        self.refresh()

    def refresh(self) -> None:
        """Recompute norm_mean, norm_rms and target from the sums. All are 0 where there are no samples."""
        sums_and_weights = self.sums.view(2, 2, -1)
        torch.div(sums_and_weights[:, 0], sums_and_weights[:, 1], out=self.moments)
        self.norm_rms.sqrt_()
        torch.add(self.norm_rms, self.settings.eps, out=self.target)
        torch.div(self.norm_mean, self.target, out=self.target)

    def transfer_scale(self, mode: Mode, previous: Mode) -> None:
        """Bumpless transfer: carry the output scale over a change of mode. Rare, so it may allocate."""
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
        torch.where(self._valid, self.scale, self.finite, out=self.scale)

    def pass_through_where(self, failed: Tensor, *, plain: bool) -> None:
        """If `failed` (bool, 0-dim), pass gradients through with the magnitude that stabilizing gave them so far."""
        usable = (self.norm_rms > 0) & (self.norm_rms < torch.inf)
        pass_through = self.gain if plain else torch.where(usable, self.unit / self.norm_rms, self.gain)
        torch.where(failed, pass_through, self.scale, out=self.scale)

    def write_rows(self, out: Tensor) -> None:
        """Write RING_COLUMNS into `out`, float32 [P, columns]."""
        columns = [self.raw_norm, self.norm_mean, self.norm_rms, self.scale, self.spike_ratio, self.target]
        torch.stack(columns, dim=1, out=out)
