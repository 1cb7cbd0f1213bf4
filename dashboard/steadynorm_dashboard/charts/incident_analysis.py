"""What the flight recorder kept around an event: which parameters went first, in order, before and after. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from steadynorm_contract.rule import SPIKE_RATIO
from steadynorm_contract.series import Heatmap
from steadynorm_dashboard.formatting import escaping

__all__ = ["AROUND", "AffectedParameter", "struck", "struck_rows"]

AROUND = 48
"""Steps to each side of the event: the agent keeps every step's rows for 32 before it and 31 after."""


@dataclass(frozen=True, slots=True)
class AffectedParameter:
    """A parameter that spiked or was not finite. Norms are None where nothing finite was recorded."""

    place: int  # in the parameter table
    name: str  # not escaped
    step: int  # the first at which it did
    nonfinite: bool  # at that step
    ratio: float  # the largest spike ratio, over all of the steps
    before: float | None  # median norm before `step`
    peak: float | None  # largest norm from `step` on
    after: float | None  # median norm after its last bad step
    lowest_target: float | None  # from `step` on
    bad_steps: int


def struck(norms: Heatmap, ratios: Heatmap, targets: Heatmap) -> list[AffectedParameter]:
    """The parameters that spiked or were not finite, the first one first; of one step, the worst first.

    All three over the same single steps: raw_norm, spike_ratio, target.
    """
    found = []
    for at, name in enumerate(norms.parameters):
        norm, ratio = norms.extreme[at], [value or 0.0 for value in ratios.extreme[at]]
        bad = [i for i, value in enumerate(norm) if value is None or ratio[i] > SPIKE_RATIO]
        if not bad:
            continue
        first, last = bad[0], bad[-1]
        found.append(
            AffectedParameter(
                place=at,
                name=name,
                step=norms.step[first],
                nonfinite=norm[first] is None,
                ratio=max(ratio),
                before=_middle(norm[:first]),
                peak=max((value for value in norm[first:] if value is not None), default=None),
                after=_middle(norm[last + 1 :]),
                lowest_target=min((value for value in targets.extreme[at][first:] if value is not None), default=None),
                bad_steps=len(bad),
            )
        )
    return sorted(found, key=lambda one: (one.step, not one.nonfinite, -one.ratio, one.place))


def _middle(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None]
    return median(finite) if finite else None


def struck_rows(struck: Sequence[AffectedParameter], step: int, *, ordered: bool = True) -> list[dict[str, object]]:
    """One row a parameter of an incident at `step`, the one that went first on top; of one step, all are equal.

    ordered: whether the rows of `step` are there, without which nobody knows who was before.
    """
    steps = [one.step for one in struck]
    return [
        {
            "order": steps.index(one.step) + 1 if ordered else None,
            "parameter": escaping.visible(one.name, 200),
            "first bad step": one.step,
            "from the event": f"{one.step - step:+d}" if one.step != step else "same step",
            "what": "not finite" if one.nonfinite else "spike",
            "bad steps": one.bad_steps,
            "largest ratio": one.ratio,
            "norm before": one.before,
            "peak": one.peak,
            "norm after": one.after,
            "lowest target": one.lowest_target,
        }
        for one in struck
    ]
