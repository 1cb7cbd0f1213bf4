"""A number that equal norms share and different ones do not: what replicas compare, now and then.

Not a hash of bits: a sum in another order rounds otherwise, and that is no fault. Here a change of 0.1 % in one norm
among a hundred thousand shows, and rounding does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steadynorm.distributed.exchange import Status
from steadynorm.stabilizer.statistics import RING_COLUMNS

__all__ = ["Fingerprints", "differing"]

TOLERANCE = 1e-3

_NORMS = [RING_COLUMNS.index("raw_norm")]
_STATISTICS = [RING_COLUMNS.index(name) for name in ("norm_mean", "norm_rms", "scale")]
_FAR = 300.0  # stands for the logarithm of what has none; float32 ends at 128


class Fingerprints:
    """Of the rows of several stabilizers. Taken at one boundary and read at a later one, so nothing waits."""

    def __init__(self, rows: Sequence[Tensor]) -> None:
        self._rows = rows
        generator = torch.Generator().manual_seed(0)  # the same weights on all ranks
        self._weights = [
            (1 + torch.rand(len(each), 1, generator=generator, dtype=torch.float64)).to(each.device) for each in rows
        ]
        self._taken: list[Tensor] = []
        self._events: list[torch.cuda.Event] = []  # one a copy: they may be on several devices

    @torch.no_grad()
    def take(self) -> None:
        """Begin to compute those of the newest step."""
        self._taken, self._events = [], []
        for rows, weights in zip(self._rows, self._weights, strict=True):
            values = rows.double()
            logarithms = values.log2().nan_to_num_(nan=_FAR, posinf=_FAR, neginf=-_FAR).mul_(weights)
            sums = torch.stack([logarithms[:, columns].sum() for columns in (_NORMS, _STATISTICS)])
            if sums.is_cuda:
                host = torch.empty(2, dtype=torch.float64, pin_memory=True)
                sums = host.copy_(sums, non_blocking=True)
                event = torch.cuda.Event()
                event.record(torch.cuda.current_stream(rows.device))
                self._events.append(event)
            self._taken.append(sums)

    def read(self) -> tuple[float, float]:
        """Norms' and statistics' fingerprint as last taken, once; NaN when none was."""
        if not self._taken:
            return math.nan, math.nan
        for event in self._events:
            event.synchronize()  # many steps old: it has long happened
        norms, statistics = torch.stack(self._taken).sum(0).tolist()
        self._taken, self._events = [], []
        return norms, statistics


def differing(statuses: Sequence[Status], what: str) -> list[int]:
    """Ranks that differ from most of those with the same parameters in `what`: a fingerprint's name in Status."""
    odd = []
    for names in {status.names for status in statuses}:
        ranks = [rank for rank, status in enumerate(statuses) if status.names == names]
        values = {rank: getattr(statuses[rank], what) for rank in ranks}
        alike = {rank: [r for r in ranks if _close(values[r], values[rank])] for rank in ranks}
        usual = max(ranks, key=lambda rank: len(alike[rank]))  # the lowest of the largest party
        odd += [rank for rank in ranks if rank not in alike[usual]]
    return sorted(odd)


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE or (math.isnan(one) and math.isnan(other))
