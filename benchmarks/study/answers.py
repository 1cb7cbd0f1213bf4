"""Each question's answer: tables, pictures, and a sentence that is computed from the rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace

from study import svg
from study.pictures import apart, draw, scores
from study.precision import PRECISIONS
from study.spike_answers import spikes, throttling
from study.svg import Panel
from study.tables import Answer, Rows, by, identity, markdown, mean, number, twins, with_spread
from study.tasks.registry import TASKS
from study.trial import CURVE_STEPS, Outcome

__all__ = ["ANSWERS"]

RETURN = "minus the return"
REACH, REACH_OF_A_RETURN = 0.1, 0.5
"""A rate trains if all but so much of the way from where training began to the best of all methods lies behind it. For
returns of reinforcement learning half of it has to do: their seeds lie further apart than a tenth."""


def rates(rows: Rows) -> Answer:
    """How many of the rates train, by method, and how much is left of the way at all of them."""
    texts: list[str] = []
    panels: list[Panel] = []
    counts: dict[str, dict[str, int]] = {}
    left: dict[str, dict[str, list[float]]] = {}
    for (task, optimizer), group in by(rows, "task", "optimizer").items():
        unit = TASKS[str(task)].unit
        found = {
            method: {rate: [outcome.score for _, outcome in runs] for (rate,), runs in by(runs_, "lr").items()}
            for (method,), runs_ in by(group, "method").items()
        }
        means = {method: {rate: mean(scores) for rate, scores in each.items()} for method, each in found.items()}
        reached = [score for each in means.values() for score in each.values() if math.isfinite(score)]
        if not reached:
            continue
        best = min(reached)
        slowest = min(trial.lr for trial, _ in group)
        start = max(reached) if unit == RETURN else mean(o.first for t, o in group if t.lr == slowest)
        limit = best + (REACH_OF_A_RETURN if unit == RETURN else REACH) * (start - best)
        lines = []
        for method, each in means.items():
            good = [rate for rate, score in each.items() if score <= limit]
            top = min(each, key=lambda rate: each[rate])
            lost = sum(outcome.diverged for trial, outcome in group if trial.method == method)
            lines.append(
                [method, f"{len(good)} of {len(each)}", f"{min(good):g} … {max(good):g}" if good else "none",
                 with_spread(found[method][top]), f"{top:g}", str(lost)]
            )  # fmt: skip
            if optimizer == "adamw":
                counts.setdefault(str(method), {})[str(task)] = len(good)
                left.setdefault(str(method), {})[str(task)] = _left(found[method], best, start)
        texts.append(f"**{task}, {optimizer}** ({unit}; a rate trains up to {number(limit)})\n")
        texts.append(
            markdown(["method", "rates that train", "from … to", "best score", "at rate", "runs that diverged"], lines)
        )
        panels.append(
            scores(f"{task}, {optimizer}", "learning rate", unit, found, log_x=True,
                   low=best - 0.05 * (start - best), high=start)
        )  # fmt: skip
    picture = "![score by learning rate](images/study/rates.svg)\n"
    return Answer("\n".join([*_over_tasks(counts, left), picture, *texts]), {"rates.svg": draw(panels)})


def _left(scores: dict[float, list[float]], best: float, start: float) -> list[float]:
    """Percent of the way from `start` to `best` that a method still has before it, mean over rates; seed by seed."""
    seeds = zip(*scores.values(), strict=False)
    return [
        statistics.fmean(100 * min(max((score - best) / (start - best), 0.0), 1.0) for score in at_each_rate)
        for at_each_rate in seeds
    ]


def _over_tasks(counts: dict[str, dict[str, int]], left: dict[str, dict[str, list[float]]]) -> list[str]:
    """Both measures under AdamW, a column a task, the best method first."""
    tasks = list(dict.fromkeys(task for each in counts.values() for task in each))
    trained = sorted(counts.items(), key=lambda item: -sum(item[1].values()))
    way = {method: list(map(statistics.fmean, zip(*each.values(), strict=False))) for method, each in left.items()}
    lines = [
        [
            method,
            *(with_spread(left[method].get(task, [])) for task in tasks),
            with_spread(all_),
            ""
            if method == "nothing"
            else with_spread([a - b for a, b in zip(all_, way["nothing"], strict=False)], sign=True),
        ]
        for method, all_ in sorted(way.items(), key=lambda item: statistics.fmean(item[1]))
    ]
    return [
        "Rates that train under AdamW:\n",
        markdown(
            ["method", *tasks, "all"],
            [
                [method, *(str(each.get(task, "")) for task in tasks), str(sum(each.values()))]
                for method, each in trained
            ],
        ),
        "Percent that is left of the way from where training began to the best of all, mean over all rates. It knows "
        "no threshold; a run that diverged has all of it left. Last column: seed by seed against nothing.\n",
        markdown(["method", *tasks, "mean", "against nothing"], lines),
    ]


def weight_decay(rows: Rows) -> Answer:
    """Score by strength, and how far the strengths lie apart."""
    texts = [
        "Width: between the best and the worst strength.\n",
        "![score by strength](images/study/weight-decay.svg)\n",
    ]
    panels = []
    for (task,), group in by(rows, "task").items():
        unit = TASKS[str(task)].unit
        strengths = sorted({trial.weight_decay for trial, _ in group})
        found = {
            str(method): {at: [o.score for t, o in runs if t.weight_decay == at] for at in strengths}
            for (method,), runs in by(group, "method").items()
        }
        lines = []
        for method, each in found.items():
            widths = [max(of_one_seed) - min(of_one_seed) for of_one_seed in zip(*each.values(), strict=False)]
            lines.append([method, *map(with_spread, each.values()), with_spread(widths)])
        texts += [f"**{task}** ({unit})\n", markdown(["method", *map("{:g}".format, strengths), "width"], lines)]
        panels.append(scores(f"{task}, adamw", "weight decay", unit, found))
    return Answer("\n".join(texts), {"weight-decay.svg": draw(panels)})


def switching(rows: Rows) -> Answer:
    """Score and largest rise of the loss against the run that stays as this one began."""
    untouched = twins([row for row in rows if not row[0].switch], "switch")
    lines = []
    drawn: dict[str, dict[str, list[tuple[Outcome, Outcome]]]] = {}
    for (optimizer, switch), group in by([row for row in rows if row[0].switch], "optimizer", "switch").items():
        direction, at, transfer = str(switch).split("/")
        stayed = "nothing" if direction == "on" else "paper"
        pairs = [(o, untouched[identity(replace(t, method=stayed), "switch")][1]) for t, o in group]
        differences = [outcome.score - twin.score for outcome, twin in pairs]
        after = int(at) // CURVE_STEPS
        rises = [[a - b for a, b in zip(o.losses(), twin.losses(), strict=False)][after:] for o, twin in pairs]
        jolts = [max(each, default=math.nan) for each in rises]
        name = f"{optimizer}, {direction} at step {at}"
        lines.append([name, transfer, with_spread(differences, sign=True), with_spread(jolts, sign=True)])
        drawn.setdefault(name, {})[transfer] = pairs
    text = (
        "Against the run of the same seed that goes on as this one began, its twin. Jolt: the most that the loss rose "
        "above it.\n"
    )
    picture = "![loss above the run that was not switched](images/study/switching.svg)\n"
    return Answer(
        "\n".join([text, picture, markdown(["switched", "transfer", "score", "jolt"], lines)]),
        {"switching.svg": svg.draw(apart(drawn))},
    )


def low_bit(rows: Rows) -> Answer:
    """Score and divergences by precision, rate and method."""
    texts = ["![score by learning rate and precision](images/study/low-bit.svg)\n"]
    panels = []
    for (task, optimizer), group in by(rows, "task", "optimizer").items():
        unit = TASKS[str(task)].unit
        settings = sorted(by(group, "precision", "lr"), key=lambda one: (one[1], PRECISIONS.index(one[0])))
        lines, lost = [], []
        for (method,), runs in by(group, "method").items():
            at = {one: [o.score for t, o in runs if (t.precision, t.lr) == one] for one in settings}
            lines.append([str(method), *map(with_spread, at.values())])
            if count := sum(outcome.diverged for _, outcome in runs):
                lost.append(f"{method} {count} of {len(runs)}")
        head = ["method", *(f"{precision}, {rate:g}" for precision, rate in settings)]
        texts += [f"**{task}, {optimizer}** ({unit})\n", markdown(head, lines)]
        texts.append(f"Diverged: {', '.join(lost) if lost else f'none of {len(group)} runs'}.\n")
        for (precision,), runs in sorted(by(group, "precision").items(), key=lambda one: PRECISIONS.index(one[0][0])):
            found = {
                str(method): {rate: [o.score for _, o in each] for (rate,), each in by(of_method, "lr").items()}
                for (method,), of_method in by(runs, "method").items()
            }
            start = mean(outcome.first for _, outcome in group)
            panels.append(
                scores(f"{task}, {optimizer}, {precision}", "learning rate", unit, found, log_x=True, high=start)
            )
    return Answer("\n".join(texts), {"low-bit.svg": draw(panels)})


ANSWERS: dict[str, Callable[[Rows], Answer]] = {
    "rates": rates,
    "spikes": spikes,
    "throttling": throttling,
    "weight decay": weight_decay,
    "switching": switching,
    "low bit": low_bit,
}
