"""Computes step scalars from rows: totals, counts, the worst parameter of each step.

Runs on the host, for many steps at once, outside the training thread.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steadynorm.stabilizer.statistics import NOT_MEASURED, RING_COLUMNS
from steadynorm_contract.rule import SPIKE_RATIO, THROTTLED_SHARE, THROTTLED_TARGET
from steadynorm_contract.telemetry import ROW_COLUMNS, SCALAR_COLUMNS


def clean_rows(rows: Tensor) -> Tensor:
    """A cleaned copy of rows for display. rows: float32 [..., P, RING_COLUMNS] as a step records them.

    A norm that was not measured is NaN, a spike ratio without a baseline is 0; without samples target and share are 1,
    and so is the factor of a step that cannot have faded.
    """
    cleaned = rows.clone()
    raw_norm, _, norm_rms, _, spike_ratio, target, calm_share, fade = cleaned.unbind(-1)
    fade.masked_fill_(~((raw_norm > 0) & raw_norm.isfinite()), 1.0)
    comparable = (raw_norm > 0) & raw_norm.isfinite() & spike_ratio.isfinite()
    spike_ratio.masked_fill_(~comparable, 0.0)
    for ratio in (target, calm_share):
        ratio.masked_fill_(norm_rms == 0, 1.0)
    raw_norm.masked_fill_(raw_norm == NOT_MEASURED, torch.nan)
    return cleaned


def stabilized_norms(rows: Tensor) -> Tensor:
    """Norms of the gradients that the optimizer saw, [..., P], from rows [..., P, RING_COLUMNS]."""
    raw_norm, scale = rows[..., RING_COLUMNS.index("raw_norm")], rows[..., RING_COLUMNS.index("scale")]
    # A scale of 0 means a non-finite gradient that was set to zero.
    return torch.where(scale == 0, 0.0, raw_norm * scale)


def summarize(rows: Tensor) -> Tensor:
    """Step scalars, float32 [S, SCALAR_COLUMNS], of the rows [S, P, RING_COLUMNS] of S steps.

    Loss and learning rate are NaN and loss_nonfinite is 0, to be filled in by the caller.
    """
    measured = rows[..., 0] != NOT_MEASURED
    cleaned = clean_rows(rows)
    raw_norm, _, _, _, spike_ratio, target, calm_share, fade = cleaned.unbind(-1)
    broken = measured & ~raw_norm.isfinite()
    known = torch.where(measured, target, 1.0)
    least, least_at = known.min(-1)
    most, most_at = spike_ratio.max(-1)
    # As `rule.is_throttled`.
    throttled = (known < THROTTLED_TARGET) & (calm_share <= THROTTLED_SHARE)
    nothing = torch.full_like(least, torch.nan)
    columns = {
        "loss": nothing,
        "learning_rate": nothing,
        "raw_norm": _total(raw_norm, measured),
        "stabilized_norm": _total(stabilized_norms(cleaned), measured),
        "target_min": torch.where(measured.any(-1), least, torch.nan),
        "target_parameter": least_at,
        "spike_ratio_max": most,
        "spike_parameter": most_at,
        "spikes": (spike_ratio > SPIKE_RATIO).sum(-1),
        "nonfinite": broken.sum(-1),
        "nonfinite_parameter": torch.where(broken.any(-1), broken.int().argmax(-1), -1),
        "throttled": throttled.sum(-1),
        "loss_nonfinite": torch.zeros_like(least),
        "faded": (fade < 1.0).sum(-1),
    }
    return torch.stack([columns[name].float() for name in SCALAR_COLUMNS], dim=-1)


def _total(norms: Tensor, measured: Tensor) -> Tensor:
    """L2 norm over all parameters, [S], of the norms [S, P] that were measured. NaN where none was."""
    total = torch.linalg.vector_norm(torch.where(measured, norms, 0.0), dim=-1)
    return torch.where(measured.any(-1), total, torch.nan)


assert RING_COLUMNS[: len(ROW_COLUMNS)] == ROW_COLUMNS
