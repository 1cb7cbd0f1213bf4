"""Numbers by which ranks compare their norms, equal for equal norms and blind to rounding, and their weights.

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
_SAMPLE = 64  # elements of each parameter
_FAR = 300.0  # in place of a logarithm that does not exist; those of float32 end at 128


class Fingerprints:
    """Fingerprints of several stabilizers' rows. Taken at one boundary and read at a later one, so nothing waits."""

    def __init__(self, rows: Sequence[Tensor]) -> None:
        self._rows = rows
        generator = torch.Generator(device="cpu").manual_seed(0)  # the same weights on all ranks
        self._weights = [
            torch.rand(len(each), 1, generator=generator, dtype=torch.float64, device="cpu").add_(1).to(each.device)
            for each in rows
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
                host = torch.empty(2, dtype=torch.float64, device="cpu", pin_memory=True)
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


class WeightFingerprints:
    """Of a sample of the weights at two steps, one after the other: equal where the weights are.

    One step is not enough: ranks that train apart and average now and then are equal right after that, and those that
    began with equal weights are equal until they move.
    """

    def __init__(self, parameters: Sequence[Sequence[Tensor]]) -> None:
        self._parameters = parameters  # of each device
        self._taken: list[Tensor] = []  # [devices], float64; one a call

    @torch.no_grad()
    def take(self) -> None:
        """Compute the next one. Waits for the device: twice in a training, if at all."""
        self._taken.append(torch.stack([_sample_sum(each).cpu() for each in self._parameters]).sum())

    def read(self) -> tuple[float, float]:
        """Both as last taken, once; NaN without two."""
        taken, self._taken = self._taken, []
        return (float(taken[0]), float(taken[1])) if len(taken) == 2 else (math.nan, math.nan)


def _sample_sum(parameters: Sequence[Tensor]) -> Tensor:
    """The first elements of all parameters, each with a factor of its own, added up: float64, 0-dim."""
    try:
        sample = torch.cat([each.detach().flatten()[:_SAMPLE].double() for each in parameters])
    except Exception:  # quantized weights and the like cannot be compared
        return torch.full((), math.nan, dtype=torch.float64, device="cpu")
    generator = torch.Generator(device="cpu").manual_seed(0)  # the same factors on all ranks
    factors = torch.rand(len(sample), generator=generator, dtype=torch.float64, device="cpu").add_(1)
    return sample.dot(factors.to(sample.device))


def differing_ranks(statuses: Sequence[RankStatus], what: str) -> list[int]:
    """Ranks that differ from most of those with the same parameters in `what`, a field of RankStatus."""
    differing = []
    for ranks in _same_parameters(statuses):
        values = {rank: getattr(statuses[rank], what) for rank in ranks}
        alike = {rank: [r for r in ranks if _close(values[r], values[rank])] for rank in ranks}
        usual = max(ranks, key=lambda rank: len(alike[rank]))  # the lowest rank of the largest group
        differing += [rank for rank in ranks if rank not in alike[usual]]
    return sorted(differing)


def have_equal_weights(statuses: Sequence[RankStatus]) -> bool:
    """Whether there are ranks with the same parameters that differ in norms, and all such ranks have equal weights."""
    torn = [ranks for ranks in _same_parameters(statuses) if len({statuses[rank].norms for rank in ranks}) > 1]
    return bool(torn) and all(
        len({statuses[rank].weights for rank in ranks}) == 1
        and len({statuses[rank].weights_after for rank in ranks}) == 1
        for ranks in torn
    )


def _same_parameters(statuses: Sequence[RankStatus]) -> list[list[int]]:
    return [
        [rank for rank, status in enumerate(statuses) if status.names == names]
        for names in {status.names for status in statuses}
    ]


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE or (math.isnan(one) and math.isnan(other))
