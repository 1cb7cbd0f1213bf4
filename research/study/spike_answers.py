"""What a spike costs, and how long it throttles: tables, pictures, and what theory says to it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from study.faults import Fault
from study.methods import RULES
from study.pictures import apart, draw, losses
from study.run import THROTTLED
from study.tables import Answer, Row, Rows, by, identity, markdown, mean, number, twins, with_spread
from study.tasks.registry import TASKS
from study.trial import CURVE_STEPS, Outcome, Trial

from steadynorm_contract.rule import TensorState, advance, reset
from steadynorm_contract.settings import Mode

__all__ = ["recovery", "spikes", "theory", "throttling"]

RECOVERED = 0.02
"""A run has recovered when its loss is this near to that of the one without a spike, as a share of that one's way."""

FOREVER = 100_000
"""Steps that are as good as no end."""


def spikes(rows: Rows) -> Answer:
    """Extra score and steps to recover against the same run without the spike."""
    calm = twins([row for row in rows if not row[0].fault], "fault")
    texts, panels = [], []
    costs: dict[str, list[float]] = {}
    for (task, optimizer), group in by(rows, "task", "optimizer").items():
        spiked = _beside(group, calm, "fault")
        if not spiked:
            continue
        kinds = list(dict.fromkeys(_kind(trial) for trial, _, _ in spiked))
        methods = list(dict.fromkeys(trial.method for trial, _, _ in spiked))
        calmly = [[o.score for t, o in group if (t.method, t.fault) == (method, "")] for method in methods]
        extra, slow = [["none: the score", *map(with_spread, calmly)]], []
        for kind in kinds:
            pairs = {method: [one for one in spiked if (one[0].method, _kind(one[0])) == (method, kind)]
                     for method in methods}  # fmt: skip
            more = {method: [o.score - twin.score for _, o, twin in each] for method, each in pairs.items()}
            extra.append([kind, *(with_spread(each, sign=True) for each in more.values())])
            slow.append([kind, *map(_recovered, pairs.values())])
            for method, differences in more.items():
                if differences:
                    costs.setdefault(method, []).append(mean(differences))
        unit = TASKS[str(task)].unit
        texts += [f"**{task}, {optimizer}: score more than without the spike** ({unit})\n"]
        texts += [markdown(["spike", *methods], extra)]
        texts += [f"**{task}, {optimizer}: steps until it has recovered** (median; >: not in time)\n"]
        texts += [markdown(["spike", *methods], slow)]
        worst = next((kind for kind in reversed(kinds) if kind.endswith("all, kept")), kinds[-1])
        drawn = {method: [o for t, o, _ in spiked if (t.method, _kind(t)) == (method, worst)] for method in methods}
        panels.append(losses(f"{task}, {optimizer}: {worst}", drawn))
    ranked = sorted(costs.items(), key=lambda item: _middle(item[1]))
    told = "; ".join(f"{method} {_middle(values):+.5f}" for method, values in ranked)
    summary = f"Median of all tables' means, of extra score: {told}.\n"
    return Answer(
        "\n".join([summary, "![loss after a spike](images/study/spikes.svg)\n", *texts]),
        {"spikes.svg": draw(panels)},
    )


def throttling(rows: Rows) -> Answer:
    """Steps with a target below THROTTLED after a spike, as measured and by the rule's theory, and what they cost."""
    calm = twins([row for row in rows if not row[0].fault], "fault", "switch")
    spiked = _beside(rows, calm, "fault", "switch")
    if not spiked:
        return Answer("No run has its twin yet.\n")
    factors = sorted({_fault(trial).factor for trial, _, _ in spiked})
    lines, ends = [], []
    drawn: dict[float, dict[str, list[tuple[Outcome, Outcome]]]] = {factor: {} for factor in factors}
    for name in dict.fromkeys(_treated(trial) for trial, _, _ in spiked):
        cells, extra = [], []
        for factor in factors:
            runs = [one for one in spiked if (_treated(one[0]), _fault(one[0]).factor) == (name, factor)]
            extra.append(with_spread([outcome.score - twin.score for _, outcome, twin in runs], sign=True))
            drawn[factor][name] = [(outcome, twin) for _, outcome, twin in runs]
            if not runs:
                cells += ["", ""]
                continue
            trial, at = runs[0][0], _fault(runs[0][0]).at
            after = 10 if trial.switch else None
            inside = theory(trial.method, factor, at, trial.steps - at - 1, reset_after=after)
            whole = theory(trial.method, factor, at, FOREVER, reset_after=after)
            cells.append(number(mean(outcome.throttled for _, outcome, _ in runs)))
            cells.append(str(inside) + (f" ({whole:,})" if whole > inside else ""))
        lines.append([name, *cells])
        ends.append([name, *extra])
    trial = spiked[0][0]
    left = trial.steps - _fault(trial).at - 1
    text = (
        f"Steps of the {left} after the spike in which the smallest target of all tensors was below "
        f"{THROTTLED}; and theory: "
        "the rule in plain floats on norms that are equal but for the spike. In brackets: if the run had no end.\n"
    )
    head = ["method", *(f"{factor:g}×: {what}" for factor in factors for what in ("measured", "theory"))]
    told = "Score more than in the same run without the spike:\n"
    end = markdown(["method", *(f"{factor:g}×" for factor in factors)], ends)
    picture = "![loss above the run without the spike](images/study/throttling.svg)\n"
    panels = apart({f"{number(factor)}× on all tensors": each for factor, each in drawn.items()})
    return Answer("\n".join([text, markdown(head, lines), told, end, picture]), {"throttling.svg": draw(panels)})


def recovery(trial: Trial, outcome: Outcome, calm: Outcome) -> float:
    """Steps from the fault until the loss is back at that of the run without it, and stays there; inf: not in time.

    To stay counts: a run whose updates are throttled falls behind little by little after a spike that did not show.
    """
    at = _fault(trial).at // CURVE_STEPS
    near = RECOVERED * max(calm.first - calm.last, 0.0)
    losses, others = outcome.losses(), calm.losses()
    off = [place for place in range(at, len(losses)) if not losses[place] <= others[place] + near]
    back = off[-1] + 1 if off else at
    return float((back - at) * CURVE_STEPS) if back < len(others) == len(losses) else math.inf


def theory(method: str, factor: float, at: int, steps: int, *, reset_after: int | None = None) -> int:
    """Of `steps` after one spike of `factor` in step `at` among equal norms: those with a target below THROTTLED."""
    state, settings = TensorState(), RULES[method]
    throttled = 0
    for step in range(at + 1 + steps):
        if reset_after and step == at + reset_after:
            reset(state)
        target = advance(state, factor if step == at else 1.0, settings, Mode.STABILIZE).target
        if step > at:
            throttled += target < THROTTLED
            if target >= THROTTLED and step > at + 100:  # the mean norm has long forgotten; from here it only rises
                break
    return throttled


def _beside(rows: Rows, calm: Mapping[tuple[object, ...], Row], *changed: str) -> list[tuple[Trial, Outcome, Outcome]]:
    """The rows with a fault, each with its twin's outcome; of a study that was ended some have none yet."""
    twin = {trial: calm.get(identity(trial, *changed)) for trial, _ in rows if trial.fault}
    return [(trial, outcome, found[1]) for trial, outcome in rows if (found := twin.get(trial))]


def _fault(trial: Trial) -> Fault:
    fault = Fault.parse(trial.fault)
    assert fault is not None
    return fault


def _treated(trial: Trial) -> str:
    return f"{trial.method}, reset after 10 steps" if trial.switch else trial.method


def _kind(trial: Trial) -> str:
    """A fault but for when it comes, as tables name it: 100×, all, kept."""
    return trial.fault.rsplit("/", 1)[0].replace("/", "×, ", 1).replace("/", ", ")


def _recovered(pairs: list[tuple[Trial, Outcome, Outcome]]) -> str:
    """The median number of steps; more than were left where it is not before the end."""
    if not pairs:
        return ""
    middle = _middle([recovery(*one) for one in pairs])
    trial = pairs[0][0]
    return f"{middle:.0f}" if math.isfinite(middle) else f"> {trial.steps - _fault(trial).at}"


def _middle(values: list[float]) -> float:
    known = [math.inf if math.isnan(value) else value for value in values]
    return statistics.median_high(known) if known else math.nan
