"""`GradientStabilizer`: all tensors at once, on their device, without a host synchronization.

    stabilizer = GradientStabilizer(model.named_parameters(), gamma2=0.99)
    loss.backward()
    stabilizer.apply()          # in place on .grad
    optimizer.step()

Read `reference.py` first: it is the same rule, one tensor at a time. Here each statistic is one float32 vector over
all parameters, and every decision is a tensor, so nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from steadynorm.gradients import Gradients
from steadynorm_contract.records import ROW_COLUMNS, SCALAR_COLUMNS
from steadynorm_contract.rule import SPIKE_RATIO, THROTTLED_TARGET
from steadynorm_contract.settings import Mode, Settings, Transfer, merge

__all__ = ["GradientStabilizer"]

STATE_FIELDS = ("norm_sum", "norm_weight", "square_sum", "square_weight", "unit", "gain", "updates", "nonfinite")
"""Rows of the state matrix. Counts are float32 like the rest: exact up to 16 million."""

_LARGEST_SAMPLE = 1.8e19  # its square is still finite in float32
_SMALLEST_WEIGHT = 1e-30  # in place of zero, so that a tensor without samples has mean 0 instead of NaN


class GradientStabilizer:
    """Replaces each gradient's magnitude by a statistically stabilized one and keeps its direction.

    named_parameters: (name, tensor) pairs, as `model.named_parameters()` gives them, all on one device. Tensors that
    need no gradient are left out. The other arguments are settings, see `steadynorm_contract.settings.Settings`.
    Raises SettingsError for a setting that breaks its rule, ValueError for parameters it cannot take.

    record: float32 vector on the parameters' device, rewritten by every `apply()`: the scalars in the contract's
    SCALAR_COLUMNS order (loss and learning rate are NaN, being somebody else's), then a row of ROW_COLUMNS for each
    parameter.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        *,
        mode: Mode | str = Mode.STABILIZE,
        gamma1: float = 0.6,
        gamma2: float = 0.999,
        eps: float = 1e-12,
        spike_limit: float | None = None,
        transfer: Transfer | str = Transfer.BUMPLESS,
    ) -> None:
        given = {"mode": mode, "gamma1": gamma1, "gamma2": gamma2, "eps": eps}
        self._settings = merge(Settings(), {**given, "spike_limit": spike_limit, "transfer": transfer})
        pairs = [(name, tensor) for name, tensor in named_parameters if tensor.requires_grad]
        self.names = [name for name, _ in pairs]
        self.parameters = [tensor for _, tensor in pairs]
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"parameter names must be unique: got {', '.join(twice[:3])} more than once")
        self._gradients = Gradients(self.parameters)
        self.device = self._gradients.device
        self._previous_mode = self._settings.mode
        self._gains_moved = False  # whether any gain may differ from 1: until then pass-through touches nothing
        self._allocate(len(pairs))
        self._fill_knobs()

    @property
    def settings(self) -> Settings:
        """What the next apply() goes by."""
        return self._settings

    def configure(self, **changes: object) -> None:
        """Change settings; they take effect at the next apply(). Raises SettingsError and then changes nothing."""
        self._settings = merge(self._settings, changes)
        self._fill_knobs()
        self._refresh_moments()

    def reset(self) -> None:
        """Drop the statistics, keep unit and gain: the optimizer sees no jolt."""
        self._sums.zero_()
        self._refresh_moments()

    @torch.no_grad()
    def apply(self) -> None:
        """One optimizer step: measure, update the statistics, and rescale every `.grad` in place.

        Call between backward() and the optimizer's step(). Gradients that are None take no part.
        """
        settings = self._settings
        stabilizing = settings.mode is Mode.STABILIZE
        if settings.mode is Mode.OFF:
            present = self._gradients.collect()
        else:
            present = self._gradients.measure(out=self._raw)
            self._update_statistics()
        if settings.mode is not self._previous_mode:
            self._switch(entering=stabilizing)
            self._previous_mode = settings.mode
        if settings.transfer is Transfer.PLAIN:
            self._unit.fill_(1.0)
            self._gain.fill_(1.0)
            self._gains_moved = False

        if stabilizing:
            # unit * target / norm where the sample is valid; 1 for a zero gradient; 0 for a non-finite one.
            torch.mul(self._unit, self._target, out=self._scale).div_(self._raw)
            torch.where(self._valid, self._scale, self._finite.float(), out=self._scale)
            self._gradients.scale(present, self._scale, self._finite)
        else:
            self._scale.copy_(self._gain)
            if self._gains_moved:
                self._gradients.scale(present, self._scale)
        self._write_record(settings.mode)

    @torch.no_grad()
    def statistics(self) -> dict[str, dict[str, float]]:
        """Per parameter, as floats: raw_norm, stabilized_norm, norm_mean, norm_rms, target, scale, updates, nonfinite.

        Of the last apply(). Waits for the device: the one call that does.
        """
        columns = {
            "raw_norm": self._raw,
            "stabilized_norm": self._stabilized,
            "norm_mean": self._mean,
            "norm_rms": self._rms,
            "target": self._target,
            "scale": self._scale,
            "updates": self._updates,
            "nonfinite": self._nonfinite,
        }
        values = torch.stack(list(columns.values()), dim=1).tolist()
        return {name: dict(zip(columns, row, strict=True)) for name, row in zip(self.names, values, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """By parameter name: statistics, unit and gain (float32 [8], in STATE_FIELDS order); the mode; the settings."""
        rows = self._state.detach().cpu().t().clone()
        return {
            "version": 1,
            "mode": self._previous_mode.value,
            "settings": {name: getattr(self._settings, name) for name in self._settings.__struct_fields__},
            "parameters": dict(zip(self.names, rows.unbind(), strict=True)),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict()`. Raises ValueError, changing nothing, when a name is missing or unknown."""
        if state.get("version") != 1:
            raise ValueError(f"stabilizer state must have version 1: got {state.get('version')!r}. Upgrade steadynorm.")
        saved = state["parameters"]
        missing, unknown = [n for n in self.names if n not in saved], [n for n in saved if n not in set(self.names)]
        if missing or unknown:
            raise ValueError(f"stabilizer state does not fit the model: missing {missing[:3]}, unknown {unknown[:3]}")
        rows = torch.stack([torch.as_tensor(saved[name], dtype=torch.float32) for name in self.names])
        if rows.shape[1:] != (len(STATE_FIELDS),):
            raise ValueError(
                f"stabilizer state must have {len(STATE_FIELDS)} numbers a parameter: got {rows.shape[1:]}"
            )
        settings = Settings(**state["settings"])
        self._settings = settings
        self._previous_mode = Mode(state["mode"])
        self._state.copy_(rows.t())
        self._gains_moved = bool((rows[:, STATE_FIELDS.index("gain")] != 1).any())
        self._fill_knobs()
        self._refresh_moments()

    # One apply(), in order.

    def _update_statistics(self) -> None:
        raw, valid = self._raw, self._valid
        torch.lt(raw, torch.inf, out=self._finite)  # false for NaN too
        torch.gt(raw, 0.0, out=valid).logical_and_(self._finite)
        self._previous_rms.copy_(self._rms)
        torch.gt(self._previous_rms, 0.0, out=self._has_previous).logical_and_(valid)

        sample = self._samples[0]
        torch.mul(self._previous_rms, self._spike_limit, out=sample)
        torch.where(self._has_previous, sample, self._largest, out=sample)
        torch.minimum(sample, raw, out=sample).clamp_max_(_LARGEST_SAMPLE)
        torch.where(valid, sample, self._zero, out=sample)  # a weight of 0 would not stop a NaN
        torch.mul(sample, sample, out=self._samples[2])
        # Not a lerp: with gamma = 1e-8, 1 - gamma is 1 in float32, and a spike of 1e6 would lose its tail.
        torch.mul(self._sample_weights, valid, out=self._masked_weights)
        torch.where(valid, self._decays, self._one, out=self._masked_decays)
        self._sums.mul_(self._masked_decays).addcmul_(self._samples, self._masked_weights)
        self._refresh_moments()

        torch.div(raw, self._previous_rms, out=self._spike_ratio)
        torch.where(self._has_previous, self._spike_ratio, self._zero, out=self._spike_ratio)

    def _refresh_moments(self) -> None:
        sums_and_weights = self._sums.view(2, 2, -1)
        torch.clamp_min(sums_and_weights[:, 1], _SMALLEST_WEIGHT, out=self._moments)
        torch.div(sums_and_weights[:, 0], self._moments, out=self._moments)
        self._rms.sqrt_()
        torch.add(self._rms, self._eps, out=self._target)
        torch.div(self._mean, self._target, out=self._target)
        torch.where(self._rms > 0, self._target, self._one, out=self._target)

    def _switch(self, *, entering: bool) -> None:
        """Carry the output scale over a change of mode. Rare, so it may allocate."""
        if self._settings.transfer is Transfer.PLAIN:
            return
        usable = (self._rms > 0) & (self._rms < torch.inf)
        if entering:
            self._unit.copy_(torch.where(usable, self._gain * self._rms, self._gain))
        elif self._previous_mode is Mode.STABILIZE:
            self._gain.copy_(torch.where(usable, self._unit / self._rms, self._gain))
            self._gains_moved = True

    def _write_record(self, mode: Mode) -> None:
        if mode is Mode.OFF:
            self._raw.fill_(torch.nan)
            self._stabilized.fill_(torch.nan)
            self._spike_ratio.zero_()
            self.record[: len(SCALAR_COLUMNS)] = self._unmeasured
            self._write_rows()
            return
        torch.mul(self._raw, self._scale, out=self._stabilized)
        if mode is Mode.STABILIZE:
            torch.where(self._finite, self._stabilized, self._zero, out=self._stabilized)
        spiked, broken, throttled, updated = self._flags
        torch.gt(self._spike_ratio, SPIKE_RATIO, out=spiked)
        torch.logical_not(self._finite, out=broken)
        torch.lt(self._target, THROTTLED_TARGET, out=throttled)
        updated.copy_(self._valid)
        self._updates.add_(updated)
        self._nonfinite.add_(broken)
        counts = self._flags.sum(1)
        least, least_at = self._target.min(0)
        most, most_at = self._spike_ratio.max(0)
        torch.stack(
            [
                self._nan,
                self._nan,
                torch.linalg.vector_norm(self._raw),
                torch.linalg.vector_norm(self._stabilized),
                least,
                least_at.float(),
                most,
                most_at.float(),
                counts[0],
                counts[1],
                torch.where(counts[1] > 0, broken.argmax().float(), self._minus_one),
                counts[2],
            ],
            out=self.record[: len(SCALAR_COLUMNS)],
        )
        self._write_rows()

    def _write_rows(self) -> None:
        torch.stack([self._raw, self._mean, self._rms, self._scale, self._spike_ratio], dim=1, out=self._rows)

    # Buffers are allocated once and filled in place, so that a step allocates next to nothing.

    def _allocate(self, count: int) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=self.device)

        self._state = zeros(len(STATE_FIELDS), count)  # [8, P]
        self._state[4:6] = 1.0
        self._sums = self._state[:4]  # [4, P]: norm_sum, norm_weight, square_sum, square_weight
        self._unit, self._gain, self._updates, self._nonfinite = self._state[4:]  # each [P]
        self._raw, self._scale, self._stabilized, self._previous_rms, self._spike_ratio, self._target = zeros(6, count)
        self._target.fill_(1.0)
        self._moments = zeros(2, count)  # [2, P]: norm_mean, norm_rms
        self._mean, self._rms = self._moments
        self._samples = zeros(4, count)  # [4, P]: sample, 1, sample squared, 1
        self._samples[1::2] = 1.0
        self._masked_weights = zeros(4, count)  # [4, P]: 1 - gamma where the sample is valid, else 0
        self._masked_decays = zeros(4, count)  # [4, P]: gamma where the sample is valid, else 1
        self._flags = zeros(4, count)  # [4, P]: spiked, non-finite, throttled, updated
        self._finite, self._valid, self._has_previous = zeros(3, count, dtype=torch.bool)

        self._knobs = zeros(10)  # live values, filled in place by configure()
        self._decays = self._knobs[:4].view(4, 1)  # gamma1, gamma1, gamma2, gamma2
        self._sample_weights = self._knobs[4:8].view(4, 1)  # 1 - each of these
        self._spike_limit, self._eps = self._knobs[8:]
        constants = torch.tensor([0.0, 1.0, -1.0, torch.nan, _LARGEST_SAMPLE], device=self.device)
        self._zero, self._one, self._minus_one, self._nan, self._largest = constants
        none = {
            "spike_ratio_max": 0.0,
            "spikes": 0.0,
            "nonfinite": 0.0,
            "nonfinite_parameter": -1.0,
            "throttled": 0.0,
        }
        self._unmeasured = torch.tensor([none.get(name, torch.nan) for name in SCALAR_COLUMNS], device=self.device)

        self.record = zeros(len(SCALAR_COLUMNS) + count * len(ROW_COLUMNS))
        self._rows = self.record[len(SCALAR_COLUMNS) :].view(count, len(ROW_COLUMNS))

    def _fill_knobs(self) -> None:
        settings = self._settings
        limit = torch.inf if settings.spike_limit is None else settings.spike_limit
        # 1 - gamma is taken in double precision: 1 - float32(0.999) is off by 1e-5.
        decays = [settings.gamma1, settings.gamma1, settings.gamma2, settings.gamma2]
        values = [*decays, *(1 - decay for decay in decays), limit, settings.eps]
        self._knobs.copy_(torch.tensor(values), non_blocking=True)
