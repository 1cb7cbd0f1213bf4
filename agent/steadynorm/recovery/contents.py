"""What a snapshot holds of a training, and how it goes back in place.

Weights that are trained, buffers, the optimizers' state and the numbers of their groups, the stabilizers' statistics,
the gradient scaler, and what else `Recovery` names. A frozen weight does not change, so it is not kept. Each rank keeps
its own part.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from steadynorm.lifecycle import described
from steadynorm.recovery import trees
from steadynorm.recovery.trees import Buffers
from steadynorm.recovery_options import Recovery
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm_contract.codec import encodable

_log = logging.getLogger("steadynorm")


@dataclass(slots=True)
class Saved:
    """One copy. Weights and states are known by the parameter itself, since an optimizer may drop and add some."""

    weights: dict[int, tuple[weakref.ref[Tensor], Tensor]] = field(default_factory=dict)
    states: list[list[tuple[Any, Any]]] = field(default_factory=list)  # of each optimizer: parameter and its state
    groups: list[list[dict[str, Any]]] = field(default_factory=list)
    buffers: dict[str, Any] = field(default_factory=dict)
    statistics: list[tuple[weakref.ref[GradientStabilizer], str, Tensor]] = field(default_factory=list)
    others: dict[str, Any] = field(default_factory=dict)
    random: dict[str, Tensor] = field(default_factory=dict)


class Contents:
    """The training that snapshots are of. Holds neither the model nor the optimizers alive."""

    def __init__(
        self,
        recovery: Recovery,
        model: torch.nn.Module,
        optimizers: Sequence[Optimizer],
        stabilizers: Sequence[GradientStabilizer],
    ) -> None:
        self._model = weakref.ref(model)
        self._optimizers = [weakref.ref(optimizer) for optimizer in optimizers]
        self._stabilizers = stabilizers
        self._others: dict[str, Any] = {f"extra {name}": each for name, each in recovery.extra.items()}
        self._schedulers = [weakref.ref(each) for each in recovery.schedulers]  # they hold the optimizers
        self._restores_rng = recovery.restore_rng
        if recovery.scaler is not None:
            self._others["scaler"] = recovery.scaler

    def let_go(self) -> None:
        """Keep nothing of the training alive."""
        self._others = {}

    def devices(self) -> set[torch.device]:
        """The accelerators that hold any of it."""
        return {each.device for each in self._weights() if each.is_cuda}

    @torch.no_grad()
    def save(self, buffers: Buffers) -> Saved:
        """Copy all of it. From an accelerator, on its current stream, without a wait."""
        saved, model = Saved(), self._model()
        for weight in self._weights():
            saved.weights[id(weight)] = (weakref.ref(weight), trees.save(weight, buffers, ("weight", id(weight))))
        if model is not None:
            saved.buffers = {name: trees.save(each, buffers, ("buffer", name)) for name, each in model.named_buffers()}
        for at, optimizer in enumerate(self._living()):
            saved.states.append(
                [
                    (_reference(key), trees.save(state, buffers, ("state", at, id(key))))
                    for key, state in optimizer.state.items()
                ]
            )
            saved.groups.append(
                [
                    trees.save(self._numbers(group), buffers, ("group", at, place))
                    for place, group in enumerate(optimizer.param_groups)
                ]
            )
        for at, stabilizer in enumerate(self._stabilizers):
            copied = trees.save(stabilizer.state, buffers, ("statistics", at))
            saved.statistics.append((weakref.ref(stabilizer), stabilizer.settings.mode.value, copied))
        saved.others = {name: trees.save(self._state(each), buffers, ("other", name)) for name, each in self._named()}
        if self._restores_rng:
            saved.random = {"cpu": torch.get_rng_state()}
            saved.random |= {str(device): torch.cuda.get_rng_state(device) for device in self.devices()}
        buffers.trim()
        return saved

    @torch.no_grad()
    def finite(self) -> Tensor | None:
        """Whether all weights of this rank are finite: bool, 0-dim, on a device. None: it has none."""
        locals_ = [trees.local(each) for each in self._weights()]
        measured = [each for each in locals_ if each.is_floating_point() and each.numel()]
        if not measured:
            return None
        first = measured[0].device
        largest = [torch.linalg.vector_norm(each, torch.inf, dtype=torch.float32).to(first) for each in measured]
        return torch.stack(largest).isfinite().all()

    def misfit(self, saved: Saved) -> str:
        """Why `saved` cannot go back into the training as it is now; empty if it can. Changes nothing."""
        known = _living_weights(saved)
        if not known:
            return "none of the weights that it holds is there any more"
        for weight, copied in known:
            if not trees.fits(weight, copied):
                return f"a weight of shape {tuple(weight.shape)} had shape {tuple(copied.shape)} when it was taken"
        if len(saved.groups) != len(self._living()):
            return "an optimizer is gone"
        return ""

    @torch.no_grad()
    def restore(self, saved: Saved) -> list[str]:
        """Write all of it back, also weights that were frozen since.

        Parameters that came after it was taken stay, and their optimizer state begins anew. Returns the parts that
        raised an error, each with the error: the others are back all the same.
        """
        parts: list[tuple[str, Callable[[], object]]] = [
            ("weights", partial(self._restore_weights, saved)),
            ("buffers", partial(self._restore_buffers, saved)),
        ]
        for at, (optimizer, states, groups) in enumerate(zip(self._living(), saved.states, saved.groups, strict=True)):
            parts.append((f"optimizer {at}", partial(self._restore_optimizer, optimizer, states, groups)))
        parts.append(("statistics", partial(self._restore_statistics, saved)))
        for name, other in self._named():
            parts.append((name, partial(_restore_other, other, saved.others.get(name))))
        parts.append(("random numbers", partial(_restore_random, saved)))
        failed = []
        for name, part in parts:
            try:
                part()
            except Exception as error:
                _log.debug("%s did not go back", name, exc_info=True)
                failed.append(f"{name} ({encodable(described(error)[:200])})")
        return failed

    def _restore_weights(self, saved: Saved) -> None:
        for weight, copied in _living_weights(saved):
            trees.local(weight).copy_(copied)

    def _restore_buffers(self, saved: Saved) -> None:
        if (model := self._model()) is None:
            return
        known = [(name, buffer, saved.buffers[name]) for name, buffer in model.named_buffers() if name in saved.buffers]
        for _, buffer, copied in known:
            trees.restore(buffer, copied, buffer.device)
        if other := [name for name, buffer, copied in known if not trees.fits(buffer, copied)]:
            raise ValueError(f"{', '.join(other[:3])} has another shape than when it was taken")

    def _restore_statistics(self, saved: Saved) -> None:
        for reference, mode, statistics in saved.statistics:
            stabilizer = reference()
            # Unit and gain belong to the mode in which they were decided; an operator's change of it stays.
            if stabilizer is not None and stabilizer.settings.mode.value == mode:
                stabilizer.state.copy_(statistics)
                stabilizer.configure()

    def _named(self) -> list[tuple[str, Any]]:
        """What goes back by its `load_state_dict`."""
        schedulers = [(f"scheduler {at}", each()) for at, each in enumerate(self._schedulers)]
        return [*self._others.items(), *((name, each) for name, each in schedulers if each is not None)]

    def _state(self, other: Any) -> Any:
        """What it says of itself. A scaler's own dictionary would wait for the device: its scale is asked for there."""
        if not _is_scaler(other):
            return other.state_dict()
        device = next(iter(self.devices()), torch.device("cpu"))
        return {"scale": other.scale(torch.ones((), dtype=torch.float32, device=device))}

    def _restore_optimizer(
        self, optimizer: Optimizer, states: list[tuple[Any, Any]], groups: list[dict[str, Any]]
    ) -> None:
        kept = set()
        for reference, saved in states:
            key = reference() if isinstance(reference, weakref.ref) else reference
            if key is None:
                continue
            device = trees.local(key).device if isinstance(key, Tensor) else None
            optimizer.state[key] = trees.restore(optimizer.state.get(key), saved, device)
            kept.add(key)
        for key in [key for key in optimizer.state if key not in kept]:
            del optimizer.state[key]
        for group, numbers in zip(optimizer.param_groups, groups, strict=False):
            for name, value in numbers.items():
                present = group.get(name)
                group[name] = trees.restore(present, value, present.device if isinstance(present, Tensor) else None)

    def _numbers(self, group: dict[str, Any]) -> dict[str, Any]:
        """What a group has beside its parameters. A rate that a scheduler drives is the scheduler's."""
        theirs = {"params"}
        if "initial_lr" in group and not self._schedulers:
            theirs.add("lr")
        return {name: value for name, value in group.items() if name not in theirs and _is_plain(value)}

    def _weights(self) -> Iterator[Tensor]:
        seen: set[int] = set()
        for optimizer in self._living():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.requires_grad and id(parameter) not in seen and not parameter.is_meta:
                        seen.add(id(parameter))
                        yield parameter

    def _living(self) -> list[Optimizer]:
        return [optimizer for reference in self._optimizers if (optimizer := reference()) is not None]


def _living_weights(saved: Saved) -> list[tuple[Tensor, Tensor]]:
    """Weights that are there still, each with its copy."""
    return [(weight, copied) for reference, copied in saved.weights.values() if (weight := reference()) is not None]


def _restore_other(other: Any, state: Any) -> None:
    if isinstance(other, torch.nn.Module):
        now, again = other.state_dict(), other.state_dict()
        # Before it is written into: two calls that give the same memory give the module's own.
        shared = all(isinstance(each, Tensor) and _is_same(each, again.get(name)) for name, each in now.items())
        given = OrderedDict(trees.restore(None, state, None))
        trees.restore(now, state, None)
        if not shared:  # copies, or what get_extra_state() returns
            given._metadata = getattr(now, "_metadata", None)  # type: ignore[attr-defined]  # as torch's own has
            other.load_state_dict(given)
    elif _is_scaler(other):
        # It was not asked how many steps it had before it raises its scale, which would have been a wait: begin anew.
        other.load_state_dict({**other.state_dict(), "scale": float(state["scale"]), "_growth_tracker": 0})
    elif state:  # a scaler that is off has none
        other.load_state_dict(trees.restore(None, state, None))


def _is_same(one: Tensor, other: object) -> bool:
    return isinstance(other, Tensor) and trees.local(one).data_ptr() == trees.local(other).data_ptr()


def _is_scaler(other: object) -> bool:
    return isinstance(other, torch.amp.GradScaler) and other.is_enabled()


def _restore_random(saved: Saved) -> None:
    for device, state in saved.random.items():
        if device == "cpu":
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, device)


def _reference(key: object) -> Any:
    return weakref.ref(key) if isinstance(key, Tensor) else key


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str | Tensor)
