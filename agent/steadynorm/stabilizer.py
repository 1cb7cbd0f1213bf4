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
from steadynorm.statistics import STATE_FIELDS, Statistics
from steadynorm_contract.records import ROW_COLUMNS, SCALAR_COLUMNS
from steadynorm_contract.rule import SPIKE_RATIO, THROTTLED_TARGET
from steadynorm_contract.settings import Mode, Settings, Transfer, merge

__all__ = ["GradientStabilizer"]


_GROUP_BYTES = 8 * 1024 * 1024
"""On the CPU, gradients are measured and scaled in groups of this size: the second pass finds them in the cache."""


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
        self.device = _common_device(self.parameters)
        self._previous_mode = self._settings.mode
        self._gains_moved = False  # whether any gain may differ from 1: until then pass-through touches nothing
        self._statistics = Statistics.allocate(len(pairs), self.device)
        self._statistics.knobs.fill(self._settings)
        self._groups = [
            (Gradients(self.parameters[start:stop]), self._statistics.slice(start, stop))
            for start, stop in _group_bounds(self.parameters, self.device)
        ]
        self._stabilized = torch.zeros(len(pairs), device=self.device)
        self._flags = torch.zeros(3, len(pairs), device=self.device)  # spiked, non-finite, throttled
        constants = {
            "spike_ratio_max": 0.0,
            "spikes": 0.0,
            "nonfinite": 0.0,
            "nonfinite_parameter": -1.0,
            "throttled": 0.0,
        }
        self._unmeasured = torch.tensor([constants.get(name, torch.nan) for name in SCALAR_COLUMNS], device=self.device)
        self._nan, self._minus_one = torch.tensor([torch.nan, -1.0], device=self.device)
        self.record = torch.zeros(len(SCALAR_COLUMNS) + len(pairs) * len(ROW_COLUMNS), device=self.device)
        self._rows = self.record[len(SCALAR_COLUMNS) :].view(len(pairs), len(ROW_COLUMNS))

    @property
    def settings(self) -> Settings:
        """What the next apply() goes by."""
        return self._settings

    def configure(self, **changes: object) -> None:
        """Change settings; they take effect at the next apply(). Raises SettingsError and then changes nothing."""
        self._settings = merge(self._settings, changes)
        self._statistics.knobs.fill(self._settings)
        self._statistics.refresh()

    def reset(self) -> None:
        """Drop the statistics, keep unit and gain: the optimizer sees no jolt."""
        self._statistics.sums.zero_()
        self._statistics.refresh()

    @torch.no_grad()
    def apply(self) -> None:
        """One optimizer step: measure, update the statistics, and rescale every `.grad` in place.

        Call between backward() and the optimizer's step(). Gradients that are None take no part.
        """
        mode, previous = self._settings.mode, self._previous_mode
        plain = self._settings.transfer is Transfer.PLAIN
        scaling = mode is Mode.STABILIZE or (not plain and (self._gains_moved or previous is Mode.STABILIZE))
        for gradients, statistics in self._groups:
            if mode is Mode.OFF:
                present = gradients.collect()
            else:
                present = gradients.measure(out=statistics.raw_norm)
                statistics.update()
            if plain:
                statistics.unit.fill_(1.0)
                statistics.gain.fill_(1.0)
            elif mode is not previous:
                statistics.hand_over(mode, previous)
            statistics.decide(mode)
            if scaling:
                gradients.scale(present, statistics.scale, statistics.finite if mode is Mode.STABILIZE else None)
        self._gains_moved = not plain and (self._gains_moved or (previous is Mode.STABILIZE is not mode))
        self._previous_mode = mode
        self._write_record(mode)

    @torch.no_grad()
    def statistics(self) -> dict[str, dict[str, float]]:
        """Per parameter, as floats: raw_norm, stabilized_norm, norm_mean, norm_rms, target, scale, updates, nonfinite.

        Of the last apply(). Waits for the device: the one call that does.
        """
        now = self._statistics
        columns = {
            "raw_norm": now.raw_norm,
            "stabilized_norm": self._stabilized,
            "norm_mean": now.norm_mean,
            "norm_rms": now.norm_rms,
            "target": now.target,
            "scale": now.scale,
            "updates": now.updates,
            "nonfinite": now.nonfinite,
        }
        values = torch.stack(list(columns.values()), dim=1).tolist()
        return {name: dict(zip(columns, row, strict=True)) for name, row in zip(self.names, values, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """By parameter name: statistics, unit and gain (float32 [8], in STATE_FIELDS order); the mode; the settings."""
        rows = self._statistics.state.cpu().t().clone()
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
        self._statistics.state.copy_(rows.t())
        self._gains_moved = bool((rows[:, STATE_FIELDS.index("gain")] != 1).any())
        self._statistics.knobs.fill(settings)
        self._statistics.refresh()

    def _write_record(self, mode: Mode) -> None:
        now = self._statistics
        if mode is Mode.OFF:
            now.raw_norm.fill_(torch.nan)
            now.spike_ratio.zero_()
            self._stabilized.fill_(torch.nan)
            self.record[: len(SCALAR_COLUMNS)] = self._unmeasured
        else:
            torch.mul(now.raw_norm, now.scale, out=self._stabilized)
            if mode is Mode.STABILIZE:
                torch.where(now.finite, self._stabilized, now.knobs.zero, out=self._stabilized)
            spiked, broken, throttled = self._flags
            torch.gt(now.spike_ratio, SPIKE_RATIO, out=spiked)
            torch.logical_not(now.finite, out=broken)
            torch.lt(now.target, THROTTLED_TARGET, out=throttled)
            counts = self._flags.sum(1)
            least, least_at = now.target.min(0)
            most, most_at = now.spike_ratio.max(0)
            scalars = {
                "loss": self._nan,
                "learning_rate": self._nan,
                "raw_norm": torch.linalg.vector_norm(now.raw_norm),
                "stabilized_norm": torch.linalg.vector_norm(self._stabilized),
                "target_min": least,
                "target_parameter": least_at.float(),
                "spike_ratio_max": most,
                "spike_parameter": most_at.float(),
                "spikes": counts[0],
                "nonfinite": counts[1],
                "nonfinite_parameter": torch.where(counts[1] > 0, broken.argmax().float(), self._minus_one),
                "throttled": counts[2],
            }
            torch.stack([scalars[name] for name in SCALAR_COLUMNS], out=self.record[: len(SCALAR_COLUMNS)])
        columns = [now.raw_norm, now.norm_mean, now.norm_rms, now.scale, now.spike_ratio]  # ROW_COLUMNS
        torch.stack(columns, dim=1, out=self._rows)


def _common_device(parameters: list[Tensor]) -> torch.device:
    if not parameters:
        raise ValueError("there must be at least one parameter that requires a gradient: got none")
    devices = {parameter.device for parameter in parameters}
    if len(devices) > 1:
        listed = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"parameters must be on one device: got {listed}. Use a GradientStabilizer for each device.")
    return devices.pop()


def _group_bounds(parameters: list[Tensor], device: torch.device) -> list[tuple[int, int]]:
    """Start and stop of consecutive groups of parameters. One group on an accelerator, where launches cost most."""
    if device.type != "cpu":
        return [(0, len(parameters))]
    bounds, start, size = [], 0, 0
    for index, parameter in enumerate(parameters):
        grown = size + parameter.numel() * parameter.element_size()
        if index > start and grown > _GROUP_BYTES:
            bounds.append((start, index))
            start, grown = index, grown - size
        size = grown
    return [*bounds, (start, len(parameters))]
