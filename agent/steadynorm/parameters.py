"""Which optimizer's stabilizer takes which parameters, and under which names."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from steadynorm.stabilizer.stabilizer import GradientStabilizer, stabilizer_settings
from steadynorm_contract.telemetry import MAX_PARAMETERS

__all__ = ["Newcomers", "assign", "split_by_device"]


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


def assign(model: torch.nn.Module, optimizers: Sequence[Optimizer]) -> list[list[tuple[str, Tensor]]]:
    """Per optimizer, its trainable parameters with the model's names for them.

    What `torch.compile` and the data-parallel wrappers put in front of names is left out, so that a checkpoint fits
    with and without them. A parameter that the model does not know is named by its place. One that two optimizers
    share belongs to the first; a tied weight is one parameter. Raises ValueError for none at all, or too many.
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
            "Call attach() after the model is unfrozen and the optimizer is made."
        )
    return assigned


def split_by_device(pairs: Sequence[tuple[str, Tensor]]) -> list[list[tuple[str, Tensor]]]:
    """The pairs of each device, since a stabilizer works on one: in their order, devices as they first appear."""
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
