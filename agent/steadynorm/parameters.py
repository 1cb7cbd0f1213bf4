"""Assigns parameters to optimizers and devices, names them, and finds those that are added later."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from steadynorm.stabilizer.stabilizer import GradientStabilizer, stabilizer_settings
from steadynorm_contract.telemetry import MAX_PARAMETERS

_log = logging.getLogger("steadynorm")


class ParameterTracker:
    """Finds parameters that were added to an optimizer after attach(), or unfrozen, between two steps.

    They get stabilizers of their own, which are added to `stabilizers`: their statistics begin with their first step,
    and belong to checkpoints. They are not recorded: a run's table of parameters is fixed at attach().
    """

    def __init__(
        self, model: torch.nn.Module, optimizers: Sequence[Optimizer], stabilizers: list[GradientStabilizer]
    ) -> None:
        self._model, self._optimizers, self._stabilizers = model, optimizers, stabilizers
        self._sizes = [_size(optimizer) for optimizer in optimizers]
        self._frozen = [_frozen(optimizer) for optimizer in optimizers]

    def discover_new(self, index: int) -> list[GradientStabilizer]:
        """Stabilizers for the parameters added to optimizer `index` since the last call; cheap where there are none."""
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
        new = [GradientStabilizer(part, **settings) for part in split_by_device(pairs)]
        self._stabilizers += new
        _log.warning(
            "%d parameters were added to an optimizer after attach(): they are stabilized, but not recorded, since the "
            "run's table of parameters is fixed at attach(). First of them: %s",
            len(pairs),
            pairs[0][0],
        )
        return new


def _size(optimizer: Optimizer) -> int:
    return sum(len(group["params"]) for group in optimizer.param_groups)


def _frozen(optimizer: Optimizer) -> list[Tensor]:
    return [
        parameter for group in optimizer.param_groups for parameter in group["params"] if not parameter.requires_grad
    ]


def assign(model: torch.nn.Module, optimizers: Sequence[Optimizer]) -> list[list[tuple[str, Tensor]]]:
    """Per optimizer, its trainable parameters with the model's names for them.

    Prefixes that `torch.compile` and the data-parallel wrappers add to names are removed, so that a checkpoint fits
    with and without them. A parameter that is not the model's is named by its position. One that two optimizers share
    belongs to the first; a tied weight is one parameter. Raises ValueError for none at all, or too many.
    """
    names = {id(parameter): name for name, parameter in _bare(model).named_parameters()}
    taken: set[int] = set()
    used = set(names.values())
    assigned: list[list[tuple[str, Tensor]]] = []
    for index, optimizer in enumerate(optimizers):
        pairs = []
        for group_index, group in enumerate(optimizer.param_groups):
            for place, parameter in enumerate(group["params"]):
                if not parameter.requires_grad or id(parameter) in taken:
                    continue
                taken.add(id(parameter))
                name = names.get(id(parameter)) or f"optimizer{index}.group{group_index}.param{place}"
                while id(parameter) not in names and name in used:
                    name += "_"
                used.add(name)
                pairs.append((name.replace("_orig_mod.", ""), parameter))
        assigned.append(pairs)
    count = sum(map(len, assigned))
    if not 0 < count <= MAX_PARAMETERS:
        raise ValueError(
            f"the optimizers must hold 1 to {MAX_PARAMETERS} parameters that require a gradient: got {count}. "
            "Call attach() after unfreezing the model and creating the optimizer."
        )
    return assigned


def split_by_device(pairs: Sequence[tuple[str, Tensor]]) -> list[list[tuple[str, Tensor]]]:
    """The pairs of each device, since a stabilizer works on one; order is kept, devices as they first appear."""
    parts: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, parameter in pairs:
        parts.setdefault(parameter.device, []).append((name, parameter))
    return list(parts.values())


def _bare(model: torch.nn.Module) -> torch.nn.Module:
    wrappers = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    while True:
        inner = model.module if isinstance(model, wrappers) else getattr(model, "_orig_mod", None)  # torch.compile's
        if not isinstance(inner, torch.nn.Module):
            return model
        model = inner
