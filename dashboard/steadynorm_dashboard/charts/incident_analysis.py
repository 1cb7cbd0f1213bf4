"""Which parameters were affected first in the steps that the flight recorder stored around an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from steadynorm_contract.rule import SPIKE_RATIO
from steadynorm_contract.series import Heatmap
from steadynorm_dashboard.formatting import escaping

AROUND = 48
"""Steps to each side of the event: the agent sends the rows of every step from 32 before it to 31 after."""


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


def affected_parameters(norms: Heatmap, ratios: Heatmap, targets: Heatmap) -> list[AffectedParameter]:
    """The parameters that spiked or were not finite, by step; within one step, the worst first.

    The three heat maps are of raw_norm, spike_ratio and target over the same single steps.
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


def affected_rows(affected: Sequence[AffectedParameter], step: int, *, ordered: bool = True) -> list[dict[str, object]]:
    """One row per parameter of an incident at `step`, the first affected on top; those of one step share a rank.

    ordered: whether the rows of `step` are stored; without them the order is unknown.
    """
    steps = [one.step for one in affected]
    return [
        {
            "parameter": escaping.visible(one.name, 200),
            "order": steps.index(one.step) + 1 if ordered else None,
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
        for one in affected
    ]
