"""A step of one tensor in host memory: the contract's rule in plain floats, on the memory of its statistics.

With an optimizer for each parameter, which steps in the backward pass, a stabilizer has one tensor. Then the calls of
vectors of one element cost some fifty times what the tensor itself does.
"""

from __future__ import annotations

import ctypes
from math import inf, isfinite, sqrt
from struct import Struct

import torch
from torch import Tensor

from steadynorm.stabilizer.statistics import RING_COLUMNS, STATE_FIELDS, Statistics
from steadynorm_contract import rule
from steadynorm_contract.rule import BASELINE_DECAY, BASELINE_LIMIT, BASELINE_WEIGHT, SPIKE_RATIO
from steadynorm_contract.settings import Mode, Settings

MAX_ELEMENTS = 1 << 20
"""A longer tensor's dot product is not accurate enough, and there the calls weigh nothing."""

_STATE = len(STATE_FIELDS)
_FLOAT = ctypes.sizeof(ctypes.c_float)
_read_state = Struct(f"{_STATE}f").unpack_from
_write_state = Struct(f"{_STATE + 6}f").pack_into  # and what is of the newest step, right behind it
_write_row = Struct(f"{len(RING_COLUMNS)}f").pack_into
_write_pair = Struct("2f").pack_into
_BASELINE_SHARE = 1 - BASELINE_DECAY


def choose_single(parameters: list[Tensor], statistics: Statistics, rows: Tensor) -> SingleTensor | None:
    """For one plain float32 tensor in host memory; else None."""
    if len(parameters) != 1:
        return None
    (parameter,) = parameters
    plain = type(parameter) in (Tensor, torch.nn.Parameter) and parameter.device.type == "cpu"
    if not plain or parameter.dtype is not torch.float32 or parameter.numel() > MAX_ELEMENTS:
        return None
    return SingleTensor(parameters, statistics, rows)


class SingleTensor:
    """Steps the first of `parameters`. Torch's operations have the same `statistics` and `rows`, and may take turns.

    parameters: the stabilizer's own list, which may get a placeholder.
    """

    def __init__(self, parameters: list[Tensor], statistics: Statistics, rows: Tensor) -> None:
        self._parameters, self._statistics, self._rows = parameters, statistics, rows
        self._is_mapped = False
        self._settings: Settings | None = None  # of the factors

    def __getstate__(self) -> dict[str, object]:
        """A copy has statistics in memory of its own."""
        kept = {name: vars(self)[name] for name in ("_parameters", "_statistics", "_rows")}
        return {**kept, "_is_mapped": False, "_settings": None}

    def step_on(self, settings: Settings, scaling: bool) -> bool:
        """As `step()`, where the mode is the last step's, for a finite gradient that is not zero: what is usual.

        The same operations in the same order as `rule.advance`, to the last bit, without its calls and objects. False,
        and nothing done, where anything is not usual.
        """
        gradient = self._parameters[0].grad
        if (
            type(gradient) is not Tensor
            or gradient.dtype is not torch.float32
            or gradient.requires_grad
            or gradient.layout is not torch.strided
            or not gradient.is_contiguous()
        ):
            return False
        flat = gradient if gradient.dim() == 1 else gradient.view(-1)
        norm = sqrt(flat.dot(flat).item())
        if not 0.0 < norm < inf:
            return False
        if settings is not self._settings:
            self._take(settings)
        if not self._is_mapped:
            self._map()
        gamma1, share1, gamma2, share2, eps, limit, fades, stabilizes = self._factors
        sums, weights, squares, square_weights, base, base_weights, calm_squares, unit, gain, updates, broken = (
            _read_state(self._floats)
        )
        rms = sqrt(squares / square_weights) if square_weights > 0 else 0.0
        baseline = base / base_weights if base_weights > BASELINE_WEIGHT else inf
        sample = norm
        if limit is not None and rms > 0:
            most = limit * rms
            sample = most if most < norm else norm
        scale, fade = gain, rule.fade(norm, rms, baseline, limit) if fades and limit is not None else 1.0
        sums = gamma1 * sums + share1 * sample
        weights = gamma1 * weights + share1
        squares = gamma2 * squares + share2 * sample * sample
        square_weights = gamma2 * square_weights + share2
        most = SPIKE_RATIO * baseline
        calm = most if most < sample else sample
        calm_squares = gamma2 * calm_squares + share2 * calm * calm
        most = BASELINE_LIMIT * baseline
        base = BASELINE_DECAY * base + _BASELINE_SHARE * (most if most < norm else norm)
        base_weights = BASELINE_DECAY * base_weights + _BASELINE_SHARE
        mean = sums / weights if weights > 0 else 0.0
        rms = sqrt(squares / square_weights) if square_weights > 0 else 0.0
        aim = mean / (rms + eps) if rms > 0 else 1.0
        ratio = norm / baseline
        calm_share = calm_squares / squares if squares > 0 else 1.0
        if stabilizes:
            scale = unit * aim / norm * fade
        target = aim if rms > 0 else 0.0
        try:  # the row first: of all numbers these are the ones that may be too large, which `step()` makes infinite
            _write_row(self._row_bytes, 0, norm, mean, rms, scale, ratio, target, calm_share, fade)
        except OverflowError:
            return False
        newest = base / base_weights if base_weights > 0 else 0.0
        _write_state(
            self._floats, 0, sums, weights, squares, square_weights, base, base_weights, calm_squares, unit, gain,
            updates + 1, broken, norm, scale, ratio, mean, rms, newest,
        )  # fmt: skip
        _write_pair(self._floats, self._target * _FLOAT, target, calm_share)
        self._finite.value = True
        if scaling and scale != 1.0:
            gradient.mul_(self._scale)  # a tensor of one element: half the cost of a number
        return True

    def _take(self, settings: Settings) -> None:
        gamma1, gamma2, limit = settings.gamma1, settings.gamma2, settings.spike_limit
        stabilizes, fades = settings.mode is Mode.STABILIZE, settings.spike_fade and limit is not None
        self._factors = (gamma1, 1 - gamma1, gamma2, 1 - gamma2, settings.eps, limit, fades and stabilizes, stabilizes)
        self._settings = settings

    def step(self, settings: Settings, previous: Mode, scaling: bool) -> bool:
        """As `GradientStabilizer.apply()`. False, and nothing done, for a gradient that torch's operations must do."""
        gradient = self._parameters[0].grad
        if gradient is None:
            norm = 0.0
        elif gradient.dtype is not torch.float32 or gradient.requires_grad or type(gradient) is not Tensor:
            return False
        elif gradient.layout is torch.strided and gradient.is_contiguous():
            flat = gradient.view(-1)
            norm = sqrt(torch.dot(flat, flat).item())
        else:
            return False
        if not self._is_mapped:
            self._map()
        values = self._values
        state = rule.TensorState(*values[:_STATE])  # type: ignore[arg-type]  # counts are floats here
        outcome = rule.advance(state, norm, settings, previous)
        rms = state.norm_rms
        scale = 0.0 if outcome.zeroed else outcome.scale
        row: list[ctypes.c_float | float] = [
            norm,
            state.norm_mean,
            rms,
            scale,
            outcome.spike_ratio,
            outcome.target if rms > 0 else 0.0,
            outcome.calm_share,
            outcome.fade,
        ]
        self._row[:] = row
        values[:_STATE] = [
            state.norm_sum,
            state.norm_weight,
            state.square_sum,
            state.square_weight,
            state.baseline_sum,
            state.baseline_weight,
            state.calm_square_sum,
            state.unit,
            state.gain,
            state.updates,
            state.nonfinite,
        ]
        at = self._raw_norm
        baseline = state.baseline_sum / state.baseline_weight if state.baseline_weight > 0 else 0.0
        values[at : at + 6] = [norm, scale, outcome.spike_ratio, state.norm_mean, rms, baseline]
        values[self._target : self._target + 2] = row[5:7]
        self._finite.value = isfinite(norm)
        if scaling and gradient is not None:
            if outcome.zeroed:
                gradient.zero_()
            elif scale != 1.0:
                gradient.mul_(scale)
        return True

    def _map(self) -> None:
        """The first time, and in a copy."""
        statistics, floats = self._statistics, self._statistics.floats
        start, row = floats.data_ptr(), self._rows.data_ptr()
        self._values = (ctypes.c_float * floats.numel()).from_address(start)
        self._floats = (ctypes.c_char * (floats.numel() * _FLOAT)).from_address(start)
        self._row = (ctypes.c_float * len(RING_COLUMNS)).from_address(row)
        self._row_bytes = (ctypes.c_char * (len(RING_COLUMNS) * _FLOAT)).from_address(row)
        self._finite = ctypes.c_bool.from_address(statistics.finite.data_ptr())
        self._scale = statistics.scale[0]
        self._raw_norm = int(statistics.raw_norm.storage_offset())
        self._target = int(statistics.target.storage_offset())
        self._is_mapped = True
