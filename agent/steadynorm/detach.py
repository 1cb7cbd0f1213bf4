"""Detaching for good: the gain that pass-through would keep applying is folded into the optimizer's own state.

An optimizer that was fed g * k has first moments in the scale of k and second moments in that of k². Divided by those,
it continues with the raw g as if k were still applied, provided that its update does not depend on the gradient's
scale. Its `eps` does not follow, and weighs 1 / k of what it did: `eps_share` measures how much that matters.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, optim
from torch.optim import Optimizer

from steadynorm.hooks import OptimizerHooks
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.stabilizer.statistics import STATE_FIELDS
from steadynorm_contract.settings import Mode
from steadynorm_contract.words import counted

NOTICEABLE_EPS_SHARE = 0.01

_log = logging.getLogger("steadynorm")


@dataclass(frozen=True, slots=True)
class _Family:
    """Optimizers whose update does not change when all gradients are scaled, and the state entries that scale along."""

    powers: dict[str, int]  # by entry of the optimizer's state, its power of k
    eps_beside: str | None = None  # second-moment entry to whose root `eps` is added


_ADAM = _Family({"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2}, eps_beside="exp_avg_sq")
_FAMILIES: dict[str, _Family] = {
    **dict.fromkeys(("Adam", "AdamW", "NAdam", "RAdam", "SparseAdam"), _ADAM),
    "Adamax": _Family({"exp_avg": 1, "exp_inf": 1}),
    "Adagrad": _Family({"sum": 2}, eps_beside="sum"),
    "Adadelta": _Family({"square_avg": 2}),
    "RMSprop": _Family({"square_avg": 2, "grad_avg": 1}, eps_beside="square_avg"),
    "Adafactor": _Family({"row_var": 2, "col_var": 2, "variance": 2}),
    "Rprop": _Family({"prev": 1}),
    "Muon": _Family({"momentum_buffer": 1}),
}
_BY_TYPE = {getattr(optim, name): family for name, family in _FAMILIES.items() if hasattr(optim, name)}
_DECOUPLED = ("AdamW", "Adafactor", "Muon")  # weight decay never enters the gradient


@dataclass(frozen=True, slots=True)
class FoldedGain:
    """What `detach()` did with one parameter's gain.

    Attributes:
        gain: The factor by which pass-through would multiply the gradient.
        folded: Whether the optimizer's state was divided by it.
        note: Empty, or what is not exact and what to do.
        eps_share: Share of `eps` in the optimizer's denominator with raw gradients, in [0, 1]; 0 where there is none.
    """

    gain: float
    folded: bool
    note: str = ""
    eps_share: float = 0.0


@dataclass(frozen=True, slots=True)
class DetachReport:
    """What `agent.detach()` did.

    Attributes:
        parameters: By parameter name. A gain of 1 needs nothing, and counts as folded.
    """

    parameters: dict[str, FoldedGain] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether the run continues as it would by pass-through, up to rounding and `eps`."""
        return all(fold.folded and not fold.note for fold in self.parameters.values())

    @property
    def left(self) -> dict[str, float]:
        """Gains that could not be folded, by parameter name: these gradients change by the factor 1 / gain."""
        return {name: fold.gain for name, fold in self.parameters.items() if not fold.folded}

    @property
    def notes(self) -> list[str]:
        """Each note once, with the number of parameters that it concerns."""
        count: dict[str, int] = {}
        for fold in self.parameters.values():
            if fold.note:
                count[fold.note] = count.get(fold.note, 0) + 1
        return [f"{counted(number, 'parameter')}: {note}" for note, number in count.items()]


class Folding:
    """Divides the optimizers' moments by the gains, in place, where raw gradients then give the same updates.

    gains: by id of each parameter, its name and its gain. What an interrupt or an error leaves is done by a second
    call of `finish()`, and nothing is divided twice.
    """

    def __init__(self, gains: Mapping[int, tuple[str, float]]) -> None:
        self.report: DetachReport | None = None  # once all is done
        self._gains = gains
        self._folds: dict[str, FoldedGain] = {}
        self._divided: dict[tuple[int, str], Tensor | None] = {}  # by parameter and entry; None: written back

    def finish(self, optimizers: Sequence[Optimizer]) -> DetachReport:
        """Fold what has not been folded yet. An interrupt from the keyboard is raised once that is done."""
        try:
            self.report = self._fold_all(optimizers)
        except KeyboardInterrupt:  # moments of which some are in the old scale would be worse than to wait for it
            self.report = self._fold_all(optimizers)
            raise
        for note in self.report.notes:
            _log.warning("detached, but not exactly: %s", note)
        return self.report

    @torch.no_grad()
    def _fold_all(self, optimizers: Sequence[Optimizer]) -> DetachReport:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    name, gain = self._gains.get(id(parameter), ("", 1.0))
                    if name and name not in self._folds:
                        divide = partial(self._divide, id(parameter))
                        self._folds[name] = _fold(optimizer, group, optimizer.state.get(parameter, {}), gain, divide)
        return DetachReport(self._folds)

    def _divide(self, parameter: int, entry: str, value: Tensor, divisor: float) -> None:
        """The quotient is kept until it is written: to write it once more, after an interrupt, changes nothing."""
        key = parameter, entry
        if key not in self._divided:
            self._divided[key] = value / divisor
        if (quotient := self._divided[key]) is not None:
            value.copy_(quotient)
            self._divided[key] = None


def begin_folding(hooks: Sequence[OptimizerHooks]) -> Folding:
    """Between two steps, hooks still registered: restore the learning rates, and see which gains are to be folded."""
    replaced = next(filter(None, (each.replaced for each in hooks)), "")
    for each in hooks:
        each.restore_rates()
    if replaced:
        _log.warning("detached: %s; the optimizer's own learning rate and options apply now", replaced)
    return Folding(gains_of(stabilizer for each in hooks for stabilizer in each.stabilizers))


def gains_of(stabilizers: Iterable[GradientStabilizer]) -> dict[int, tuple[str, float]]:
    """By id of each parameter, its name and the gain that pass-through would apply if stabilizing ended now.

    In stabilize that is unit / norm_rms, see docs/algorithm.md. Waits for the device.
    """
    gains: dict[int, tuple[str, float]] = {}
    for stabilizer in stabilizers:
        state = stabilizer.state_dict()
        stabilizing = state["mode"] == Mode.STABILIZE.value
        for name, parameter in zip(stabilizer.names, stabilizer.parameters, strict=True):
            values = dict(zip(STATE_FIELDS, state["parameters"][name].tolist(), strict=True))
            gain = values["gain"]
            if stabilizing and values["square_weight"] > 0:
                norm_rms = math.sqrt(values["square_sum"] / values["square_weight"])
                if 0 < norm_rms < math.inf:
                    gain = values["unit"] / norm_rms
            gains[id(parameter)] = (name, gain)
    return gains


def _fold(
    optimizer: Optimizer,
    group: Mapping[str, Any],
    state: Mapping[str, Any],
    gain: float,
    divide: Callable[[str, Tensor, float], None],
) -> FoldedGain:
    if gain == 1.0:
        return FoldedGain(gain, folded=True)
    family = _BY_TYPE.get(type(optimizer))
    if family is None:
        return FoldedGain(gain, folded=False, note=_advice(optimizer))
    for entry, power in family.powers.items():
        value = state.get(entry)
        if isinstance(value, Tensor):  # Adafactor and Adam do not have all of them
            divide(entry, value, gain**power)
    share = _eps_share(family, group, state)
    return FoldedGain(gain, folded=True, note=_note(optimizer, group, state, share), eps_share=share)


def _advice(optimizer: Optimizer) -> str:
    kind = type(optimizer).__name__
    if isinstance(optimizer, optim.SGD):
        return (
            f"{kind}'s update is proportional to the gradient, so a gain of k needs a learning rate times k for each "
            "tensor. The gain was not folded. To continue exactly, give each parameter in report.left a group of its "
            "own with its rate times its gain, and divide its momentum_buffer by the gain; or keep the agent, in "
            "observe."
        )
    return (
        f"how {kind} depends on the gradient's scale is not known, so the gain was not folded and its state was not "
        "changed. Warm its learning rate up again, or keep the agent, in observe."
    )


def _note(optimizer: Optimizer, group: Mapping[str, Any], state: Mapping[str, Any], share: float) -> str:
    decoupled = type(optimizer).__name__ in _DECOUPLED or bool(group.get("decoupled_weight_decay"))
    if group.get("weight_decay") and not decoupled:
        return (
            "folded, but weight_decay is added to the gradient here, and now has 1 / gain of its former weight. "
            "Decoupled weight decay, as AdamW's, does not depend on the gain."
        )
    if type(optimizer) is optim.RAdam and "step" in state and not _rectified(group, float(state["step"])):
        return "folded, but RAdam's first steps are proportional to the gradient, and change by 1 / gain."
    if share > NOTICEABLE_EPS_SHARE:
        return f"folded, but eps is more than {NOTICEABLE_EPS_SHARE:.0%} of the denominator. Use a smaller eps."
    return ""


def _rectified(group: Mapping[str, Any], step: float) -> bool:
    """Whether the step after `step` divides by the second moment."""
    decay = float(group["betas"][1])
    longest, power = 2 / (1 - decay) - 1, decay ** (step + 1)
    return bool(longest - 2 * (step + 1) * power / (1 - power) > 5)


def _eps_share(family: _Family, group: Mapping[str, Any], state: Mapping[str, Any]) -> float:
    """eps over the denominator's root mean square, for raw gradients."""
    square = state.get(family.eps_beside or "")
    eps = group.get("eps")
    if not isinstance(square, Tensor) or not isinstance(eps, float | int) or not square.numel():
        return 0.0
    mean = square.float().mean()
    typical = math.sqrt(max(0.0, float(mean.full_tensor() if hasattr(mean, "full_tensor") else mean)))
    return float(eps) / (float(eps) + typical) if eps else 0.0
