"""A number by which replicas compare their norms: equal for equal norms, and blind to rounding.

Not a hash of bits, since a sum in another order rounds differently. A change of 0.1 % in one norm among a hundred
thousand shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steadynorm.distributed.exchange import RankStatus
from steadynorm.stabilizer.statistics import RING_COLUMNS

TOLERANCE = 1e-3

_NORMS = [RING_COLUMNS.index("raw_norm")]
_STATISTICS = [RING_COLUMNS.index(name) for name in ("norm_mean", "norm_rms", "scale")]
_FAR = 300.0  # in place of a logarithm that does not exist; those of float32 end at 128


class Fingerprints:
    """Fingerprints of several stabilizers' rows. Taken at one boundary and read at a later one, so nothing waits."""

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
        """Start to compute those of the newest step."""
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
        """Fingerprints of norms and of statistics as last taken, once; NaN when none was."""
        if not self._taken:
            return math.nan, math.nan
        for event in self._events:
            event.synchronize()  # many steps old, so it is complete
        norms, statistics = torch.stack(self._taken).sum(0).tolist()
        self._taken, self._events = [], []
        return norms, statistics


def differing_ranks(statuses: Sequence[RankStatus], what: str) -> list[int]:
    """Ranks that differ from most of those with the same parameters in `what`, a field of RankStatus."""
    differing = []
    for names in {status.names for status in statuses}:
        ranks = [rank for rank, status in enumerate(statuses) if status.names == names]
        values = {rank: getattr(statuses[rank], what) for rank in ranks}
        alike = {rank: [r for r in ranks if _close(values[r], values[rank])] for rank in ranks}
        usual = max(ranks, key=lambda rank: len(alike[rank]))  # the lowest rank of the largest group
        differing += [rank for rank in ranks if rank not in alike[usual]]
    return sorted(differing)


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE or (math.isnan(one) and math.isnan(other))
