"""Parameters that an optimizer gets after attach(): a group that is added, or weights that are unfrozen."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from steadynorm.boundary import stabilizer_settings
from steadynorm.naming import assign, split_by_device
from steadynorm.stabilizer import GradientStabilizer

__all__ = ["Newcomers"]

_log = logging.getLogger("steadynorm")


class Newcomers:
    """Finds them between two steps. They get stabilizers of their own, which are added to `stabilizers`.

    They are stabilized from their first step on, with statistics that begin there, and belong to checkpoints. They are
    not recorded: a run's table of parameters is made when it is attached.
    """

    def __init__(
        self, model: torch.nn.Module, optimizers: Sequence[Optimizer], stabilizers: list[GradientStabilizer]
    ) -> None:
        self._model, self._optimizers, self._stabilizers = model, optimizers, stabilizers
        self._sizes = [_size(optimizer) for optimizer in optimizers]
        self._frozen = [_frozen(optimizer) for optimizer in optimizers]

    def look(self, index: int) -> list[GradientStabilizer]:
        """Stabilizers of what optimizer `index` got since the last look. Mostly none, and then it costs little."""
        optimizer = self._optimizers[index]
        size = _size(optimizer)
        if size == self._sizes[index] and not any(parameter.requires_grad for parameter in self._frozen[index]):
            return []
        self._sizes[index], self._frozen[index] = size, _frozen(optimizer)
        known = {id(parameter) for stabilizer in self._stabilizers for parameter in stabilizer.parameters}
        pairs = [pair for pair in assign(self._model, self._optimizers)[index] if id(pair[1]) not in known]
        if not pairs:
            return []
        # In the mode that the others are in, so that they all switch together.
        settings = stabilizer_settings(self._stabilizers[0].settings)
        made = [GradientStabilizer(part, **settings) for part in split_by_device(pairs)]
        self._stabilizers += made
        _log.warning(
            "%d parameters came to an optimizer after attach(): they are stabilized, but not recorded, since the run's "
            "table is made by then. First of them: %s",
            len(pairs),
            pairs[0][0],
        )
        return made


def _size(optimizer: Optimizer) -> int:
    return sum(len(group["params"]) for group in optimizer.param_groups)


def _frozen(optimizer: Optimizer) -> list[Tensor]:
    return [
        parameter for group in optimizer.param_groups for parameter in group["params"] if not parameter.requires_grad
    ]
