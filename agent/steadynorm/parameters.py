"""Assigns parameters to optimizers and devices, names them, and finds those that are added later."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from steadynorm.parameter_names import parameter_names
from steadynorm.stabilizer.options import stabilizer_settings
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.stabilizer.total_clip import TotalClip
from steadynorm_contract.telemetry import MAX_PARAMETERS
from steadynorm_contract.words import counted

FROZEN_PER_STEP = 100
"""A hundred steps are enough for ten thousand of them."""

Groups = Sequence[dict[str, Any]]
"""An optimizer's `param_groups`."""

_log = logging.getLogger("steadynorm")


class ParameterTracker:
    """Follows the optimizers' parameters between two steps: those that are added, unfrozen, exchanged or removed.

    Those that come get stabilizers of their own, which are added to `stabilizers`: their statistics begin with their
    first step, and belong to checkpoints. They are not recorded: a run's table of parameters is fixed at attach().
    Those that leave are let go of.
    """

    def __init__(
        self, model: torch.nn.Module, optimizers: Sequence[Optimizer], stabilizers: list[GradientStabilizer]
    ) -> None:
        self._model, self._stabilizers = model, stabilizers
        self._optimizers = [weakref.ref(optimizer) for optimizer in optimizers]
        self._recorded = tuple(stabilizers)
        self._members: list[Members | None] = [Members(optimizer.param_groups) for optimizer in optimizers]
        self._clip = TotalClip(stabilizers)  # of all of them together
        for stabilizer in stabilizers:
            stabilizer.clip = self._clip
        self._told = False  # that parameters were exchanged, which some loops do all the time

    def update(self, index: int, groups: Groups, own: list[GradientStabilizer]) -> None:
        """Bring `own`, the stabilizers of optimizer `index`, up to date with its `groups`; cheap without a change."""
        members = self._members[index]
        if members is not None and not members.changed(groups):
            return
        self._members[index] = Members(groups)
        gone = self._release(groups, own)
        if gone:
            for other in range(len(self._members)):
                if other != index:  # what has left may have moved there
                    self._members[other] = None
        new = self._newcomers(index)
        own += new
        self._tell(gone, [name for stabilizer in new for name in stabilizer.names])

    def _release(self, groups: Groups, own: list[GradientStabilizer]) -> list[str]:
        """Let go of the parameters of `own` that are in none of the groups. Returns their names."""
        present = {id(parameter) for group in groups for parameter in group["params"]}
        gone: list[str] = []
        for stabilizer in list(own):
            places = [
                at
                for at, parameter in enumerate(stabilizer.parameters)
                if id(parameter) not in present and at not in stabilizer.released
            ]
            gone += [stabilizer.names[at] for at in places]
            stabilizer.release(places)
            # The recorded ones keep their place in the run's table.
            if len(stabilizer.released) == len(stabilizer.names) and stabilizer not in self._recorded:
                own.remove(stabilizer)
                self._stabilizers.remove(stabilizer)
        return gone

    def _newcomers(self, index: int) -> list[GradientStabilizer]:
        known = {id(parameter) for stabilizer in self._stabilizers for parameter in stabilizer.parameters}
        optimizers = [reference() for reference in self._optimizers]
        groups = [[] if optimizer is None else optimizer.param_groups for optimizer in optimizers]
        pairs = [
            (name, parameter)
            for name, parameter in _assign(self._model, groups)[index]
            if id(parameter) not in known and not parameter.is_meta
        ]
        # In the mode that the others are in, so that they all switch together.
        settings = stabilizer_settings(self._stabilizers[0].settings)
        new = [GradientStabilizer(part, **settings) for part in split_by_device(pairs)]
        for stabilizer in new:
            stabilizer.clip = self._clip
        self._stabilizers += new
        return new

    def _tell(self, gone: list[str], new: list[str]) -> None:
        if gone and not self._told:
            self._told = True
            _log.warning(
                "%s left an optimizer after attach(), and %d came: those that left are let go of, those "
                "that came are stabilized, with statistics of their own, but not recorded, since the run's table of "
                "parameters is fixed at attach(). First of them: %s. Further exchanges are not reported.",
                counted(len(gone), "parameter"),
                len(new),
                gone[0],
            )
        elif new and not gone:
            _log.warning(
                "%s added to an optimizer after attach(): stabilized, but not recorded, since "
                "the run's table of parameters is fixed at attach(). First of them: %s",
                counted(len(new), "parameter was", "parameters were"),
                new[0],
            )


class Members:
    """Which parameters an optimizer had: to notice a change in each step, at a cost that frozen ones do not add to.

    The trainable ones are compared by identity, which a stabilizer that holds them keeps unique. Of the frozen ones
    FROZEN_PER_STEP are looked at in each step, in turns.
    """

    def __init__(self, groups: Groups) -> None:
        self._groups: list[tuple[int, Callable[[Sequence[Tensor]], Iterable[Tensor]], list[Tensor]]] = []
        self._frozen: list[tuple[int, int]] = []  # group and place
        self._next = 0
        for index, group in enumerate(groups):
            parameters = group["params"]
            frozen = [at for at, parameter in enumerate(parameters) if not parameter.requires_grad]
            self._frozen += [(index, at) for at in frozen]
            trainable = sorted(set(range(len(parameters))) - set(frozen))
            pick = _all if not frozen else itemgetter(*trainable) if len(trainable) > 1 else _those(trainable)
            self._groups.append((len(parameters), pick, [*pick(parameters)]))

    def changed(self, groups: Groups) -> bool:
        """Whether the groups have other trainable parameters now."""
        if len(groups) != len(self._groups):
            return True
        for group, (size, pick, trainable) in zip(groups, self._groups, strict=True):
            parameters = group["params"]
            if len(parameters) != size or not all(map(is_, pick(parameters), trainable)):
                return True
        return bool(self._frozen) and self._thawed(groups)

    def _thawed(self, groups: Groups) -> bool:
        start, self._next = self._next, self._next + FROZEN_PER_STEP
        if self._next >= len(self._frozen):
            self._next = 0
        return any(
            groups[group]["params"][at].requires_grad for group, at in self._frozen[start : start + FROZEN_PER_STEP]
        )


def _all(parameters: Sequence[Tensor]) -> Iterable[Tensor]:
    return parameters


def _those(places: list[int]) -> Callable[[Sequence[Tensor]], Iterable[Tensor]]:
    return lambda parameters: [parameters[at] for at in places]


def assign(model: torch.nn.Module, optimizers: Sequence[Optimizer]) -> list[list[tuple[str, Tensor]]]:
    """Per optimizer, its trainable parameters with the model's names for them.

    The names are those of the model without wrappers, see `parameter_names`. A parameter that is not the model's is
    named by its position. One that two optimizers share belongs to the first, with a warning; a tied weight is one
    parameter. Raises ValueError for none at all, or too many, or one without memory.
    """
    assigned = _assign(model, [optimizer.param_groups for optimizer in optimizers])
    count = sum(map(len, assigned))
    if not 0 < count <= MAX_PARAMETERS:
        raise ValueError(
            f"the optimizers must hold 1 to {MAX_PARAMETERS} parameters that require a gradient: got {count}. "
            "Call attach() after unfreezing the model and creating the optimizer."
        )
    _check_memory(assigned)
    _warn_about_shared(assigned, optimizers)
    return assigned


def _check_memory(assigned: Sequence[Sequence[tuple[str, Tensor]]]) -> None:
    unmade = [name for pairs in assigned for name, parameter in pairs if parameter.is_meta]
    if unmade:
        raise ValueError(
            f"parameters must have memory: got {len(unmade)} on the meta device, the first of them {unmade[0]}. Call "
            "model.to_empty(device=...) and load the weights, then create the optimizer, then attach()."
        )


def _warn_about_shared(assigned: Sequence[Sequence[tuple[str, Tensor]]], optimizers: Sequence[Optimizer]) -> None:
    holders: dict[int, int] = {}
    for optimizer in optimizers:
        for identity in {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}:
            holders[identity] = holders.get(identity, 0) + 1
    shared = [name for pairs in assigned for name, parameter in pairs if holders[id(parameter)] > 1]
    if shared:
        _log.warning(
            "%s held by several optimizers, the first of them %s: measured and stabilized only "
            "in the steps of the first optimizer that holds it, and the others get raw gradients. Attach an agent to "
            "each optimizer instead: attach(model, first), attach(model, second).",
            counted(len(shared), "parameter is", "parameters are"),
            shared[0],
        )


def _assign(model: torch.nn.Module, optimizers: Sequence[Groups]) -> list[list[tuple[str, Tensor]]]:
    names = parameter_names(model)
    taken: set[int] = set()
    used = set(names.values())
    assigned: list[list[tuple[str, Tensor]]] = []
    for index, groups in enumerate(optimizers):
        pairs = []
        for group_index, group in enumerate(groups):
            for place, parameter in enumerate(group["params"]):
                if not parameter.requires_grad or id(parameter) in taken:
                    continue
                taken.add(id(parameter))
                name = names.get(id(parameter)) or f"optimizer{index}.group{group_index}.param{place}"
                while id(parameter) not in names and name in used:
                    name += "_"
                used.add(name)
                pairs.append((name, parameter))
        assigned.append(pairs)
    return assigned


def split_by_device(pairs: Sequence[tuple[str, Tensor]]) -> list[list[tuple[str, Tensor]]]:
    """The pairs of each device, since a stabilizer works on one; order is kept, devices as they first appear."""
    parts: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, parameter in pairs:
        parts.setdefault(parameter.device, []).append((name, parameter))
    return list(parts.values())
