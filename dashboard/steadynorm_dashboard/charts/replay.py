"""What a settings change would have done: the stabilizer's rule applied to recorded norms.

Not every step has rows: a recorded norm represents the steps since the row before it, so it decays the statistics by
gamma ** steps. Around spikes every step is recorded, and there the replay is exact. It starts from the statistics of
the first row, so it needs no warm-up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from steadynorm_contract.clipping import RecentNorms, clip_factor
from steadynorm_contract.rule import THROTTLED_TARGET, TensorState, advance
from steadynorm_contract.settings import Mode, Settings

ROWS = 1000
"""Recorded norms to replay."""

_FEWEST = 3


@dataclass(frozen=True, slots=True)
class Recorded:
    """Rows of one parameter, one per recorded step. A norm that was not finite is None.

    totals: the norms of all tensors together at those steps, which a clip goes by; None where unknown.
    """

    steps: Sequence[int]
    norms: Sequence[float | None]
    means: Sequence[float | None]
    rms: Sequence[float | None]
    scales: Sequence[float | None]
    totals: Sequence[float | None] = ()

    @property
    def stabilized(self) -> list[float | None]:
        """The norms after the stabilizer."""
        return [
            None if norm is None or scale is None else norm * scale
            for norm, scale in zip(self.norms, self.scales, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Replay:
    """The stabilized norm and the target that other settings would have given, by step."""

    steps: list[int]
    stabilized: list[float | None]
    targets: list[float]


def replay(rows: Recorded, was: Settings, draft: Settings) -> Replay | None:
    """Replay `rows` from the second one on with the settings `draft`, after `was`. None with too few rows."""
    first = next(
        (
            at
            for at, each in enumerate(zip(rows.norms, rows.means, rows.rms, rows.scales, strict=True))
            if all(value is not None and value > 0 for value in each) and not _may_be_faded(each[0], each[2], was)
        ),
        None,
    )
    if first is None or len(rows.steps) - first < _FEWEST:
        return None
    norm, mean, rms, scale = (values[first] or 0.0 for values in (rows.norms, rows.means, rows.rms, rows.scales))
    state = TensorState(norm_sum=mean, norm_weight=1.0, square_sum=rms * rms, square_weight=1.0)
    clip, clipped = _Clip(draft.clip_norm), _Clip(was.clip_norm).factor(rows, first) if was.mode is Mode.CLIP else 1.0
    if was.mode is Mode.STABILIZE:
        state.unit = scale * norm / (mean / (rms + was.eps))
    else:
        state.gain = scale / (clipped or 1.0)
    mode, by_gap = was.mode, dict[int, Settings]()
    done = Replay([], [], [])
    for before, at in zip(range(first, len(rows.steps)), range(first + 1, len(rows.steps)), strict=False):
        gap = max(1, rows.steps[at] - rows.steps[before])
        if gap not in by_gap:
            gammas = {"gamma1": draft.gamma1**gap, "gamma2": draft.gamma2**gap}
            by_gap[gap] = msgspec.structs.replace(draft, **gammas)
        value = rows.norms[at]
        factor = clip.factor(rows, at) if draft.mode is Mode.CLIP else 1.0
        usual = clipped if was.mode is Mode.CLIP else factor
        outcome = advance(state, math.nan if value is None else value, by_gap[gap], mode, factor, usual or 1.0)
        mode = draft.mode
        done.steps.append(rows.steps[at])
        done.stabilized.append(None if value is None else outcome.stabilized_norm)
        done.targets.append(outcome.target)
    return done


class _Clip:
    """The factor of mode `clip`, row by row; 1 where the total norm is not known."""

    def __init__(self, clip_norm: float | str) -> None:
        self._limit = clip_norm
        self._recent = RecentNorms()

    def factor(self, rows: Recorded, at: int) -> float:
        total = rows.totals[at] if at < len(rows.totals) else None
        if total is None:
            return 1.0
        limit = self._recent.limit(total) if isinstance(self._limit, str) else self._limit
        factor = clip_factor(total, limit)
        self._recent.add(total * factor)
        return factor


def _may_be_faded(norm: float | None, rms: float | None, was: Settings) -> bool:
    """Whether `spike_fade` may have reduced a row's scale, which then does not tell the output scale."""
    if not was.spike_fade or was.spike_limit is None or norm is None or rms is None:
        return False
    before = rms / math.sqrt(was.gamma2 + (1 - was.gamma2) * was.spike_limit**2)  # if the sample was limited
    return norm > was.spike_limit * before * (1 + 1e-6)


def throttled_share(targets: Sequence[float | None]) -> float:
    """The share of `targets` below the throttling threshold, 0 to 1."""
    known = [value for value in targets if value is not None]
    return sum(value < THROTTLED_TARGET for value in known) / len(known) if known else 0.0
