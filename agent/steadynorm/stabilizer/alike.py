"""Norms of many small tensors of one shape, in a call for all of them: biases, and weights of normalizations.

Torch measures a list of tensors in host memory one by one, which takes a microsecond each, and another to put the
norms together. A copy of all of them and one call for its rows take a third of that.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, pairwise

import torch
from torch import Tensor

_LONGEST = 1024  # elements: of more than that a copy costs as much as it saves
_FEWEST = 8  # tensors of one shape, among others
_DIMENSIONS = (1, 2, 3)  # more may be in another order in memory, which a copy of them keeps


class Stacks:
    """Which of a list of tensors are alike; and how norms by shape become norms in the order of the list."""

    def __init__(self, alike: list[list[int]], others: list[int]) -> None:
        parts = [*alike, others]
        order = [index for part in parts for index in part]
        self._alike, self._others = alike, others
        self._norms = torch.zeros(len(order), dtype=torch.float32, device="cpu")  # by shape
        stops = accumulate(map(len, parts), initial=0)
        *self._norms_alike, self._norms_of_others = (self._norms[start:stop] for start, stop in pairwise(stops))
        self._places = torch.empty(len(order), dtype=torch.int64, device="cpu")  # of each tensor, in `_norms`
        self._places[order] = torch.arange(len(order), dtype=torch.int64, device="cpu")

    @classmethod
    def among(cls, parameters: list[Tensor]) -> Stacks | None:
        """None where too few are alike, or in host memory."""
        shapes: dict[torch.Size, list[int]] = {}
        for index, each in enumerate(parameters):
            plain = each.device.type == "cpu" and each.dtype is torch.float32 and each.dim() in _DIMENSIONS
            if plain and 0 < each.numel() <= _LONGEST:
                shapes.setdefault(each.shape, []).append(index)
        # Where all are alike nothing is to be put in order, and few are enough.
        fewest = min(_FEWEST, max(2, len(parameters)))
        alike = [indices for indices in shapes.values() if len(indices) >= fewest]
        taken = {index for indices in alike for index in indices}
        return cls(alike, [index for index in range(len(parameters)) if index not in taken]) if alike else None

    def measure(
        self, gradients: list[Tensor], out: Tensor, measure_others: Callable[[list[int], list[Tensor]], list[Tensor]]
    ) -> None:
        """Write the L2 norms of `gradients`, one for each of the tensors, into `out` (float32).

        measure_others: indices and gradients to norms, for those that are like too few.
        """
        if len(self._alike) == 1 and not self._others:
            _measure_rows(gradients, out)
            return
        for indices, norms in zip(self._alike, self._norms_alike, strict=True):
            _measure_rows([gradients[index] for index in indices], norms)
        if self._others:
            measured = measure_others(self._others, [gradients[index] for index in self._others])
            torch.stack(measured, out=self._norms_of_others)
        torch.index_select(self._norms, 0, self._places, out=out)


def _measure_rows(gradients: list[Tensor], out: Tensor) -> None:
    # Not `cat`: it takes one of another size, where a parameter's memory was exchanged, and the rows would be mixed.
    rows = torch.stack(gradients).view(len(gradients), -1)
    torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32, out=out)
