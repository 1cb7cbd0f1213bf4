"""Each question's answer: tables and pictures, computed from the rows."""

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
from study.tables import Answer, Rows, by, identity, lost, markdown, mean, number, twins, untrained, with_spread
from study.tasks.registry import TASKS
from study.trial import CURVE_STEPS, Outcome

__all__ = ["ANSWERS"]

REACHES = (5, 10, 20)
"""A rate trains if no more than so many percent of the way from no training to the best of all methods are left."""
JOLT_STEPS = 40
"""What the loss does in these after a switch is the switch's own doing."""


def rates(rows: Rows) -> Answer:
    """How much is left of the way at all rates, how many of them train, and the best of each method."""
    texts: list[str] = []
    panels: list[Panel] = []
    left: dict[str, dict[str, list[list[float]]]] = {}
    for (task, optimizer), group in by(rows, "task", "optimizer").items():
        unit, start = TASKS[str(task)].unit, untrained(group)
        found = {
            method: {rate: [outcome.score for _, outcome in runs] for (rate,), runs in by(runs_, "lr").items()}
            for (method,), runs_ in by(group, "method").items()
        }
        means = {method: {rate: mean(scores) for rate, scores in each.items()} for method, each in found.items()}
        reached = [score for each in means.values() for score in each.values() if math.isfinite(score)]
        if not reached:
            continue
        best = min(reached)
        limit = best + REACHES[1] / 100 * (start - best)
        lines = []
        for method, each in means.items():
            good = [rate for rate, score in each.items() if score <= limit]
            top = min(each, key=lambda rate: each[rate])
            gone = sum(lost(*row, start) for row in group if row[0].method == method)
            lines.append(
                [method, f"{len(good)} of {len(each)}", f"{min(good):g} … {max(good):g}" if good else "none",
                 with_spread(found[method][top]), f"{top:g}", str(gone)]
            )  # fmt: skip
            if optimizer == "adamw":
                ways = [[_percent(score, best, start) for score in scores] for scores in found[method].values()]
                left.setdefault(str(method), {})[str(task)] = ways
        texts.append(
            f"**{task}, {optimizer}** ({unit}; untrained {number(start)}, a rate trains up to {number(limit)})\n"
        )
        texts.append(markdown(["method", "rates that train", "from … to", "best score", "at rate", "runs lost"], lines))
        panels.append(
            scores(f"{task}, {optimizer}", "learning rate", unit, found, log_x=True,
                   low=best - 0.05 * (start - best), high=start)
        )  # fmt: skip
    picture = "![score by learning rate](images/study/rates.svg)\n"
    told = (
        "Lost: runs with a loss or a score that was not finite, or, but for policies, with a score worse than "
        "untrained: the mean loss of the first steps at the slowest rate.\n"
    )
    return Answer("\n".join([*_over_tasks(left), picture, told, *texts]), {"rates.svg": draw(panels)})


def _percent(score: float, best: float, start: float) -> float:
    """What is left of the way from `start` to `best`, from 0 to 100; all of it where a run diverged."""
    return 100 * min(max((score - best) / (start - best), 0.0), 1.0)


def _over_tasks(left: dict[str, dict[str, list[list[float]]]]) -> list[str]:
    """Two measures over all rates under AdamW. left: percent by method, task, rate and seed."""
    tasks = list(dict.fromkeys(task for each in left.values() for task in each))
    of_seed = {  # mean over rates, by method and task
        method: {task: [*map(statistics.fmean, zip(*ways, strict=False))] for task, ways in each.items()}
        for method, each in left.items()
    }
    way = {method: [*map(statistics.fmean, zip(*each.values(), strict=False))] for method, each in of_seed.items()}
    against = {
        method: [one - other for one, other in zip(all_, way.get("nothing", ()), strict=False)]
        for method, all_ in way.items()
    }
    ranked = sorted(way, key=lambda method: statistics.fmean(way[method]))
    ways = [
        [
            method,
            *(with_spread(of_seed[method].get(task, [])) for task in tasks),
            with_spread(way[method]),
            "" if method == "nothing" else with_spread(against[method], sign=True),
        ]
        for method in ranked
    ]
    counts = [
        [
            method,
            *(str(_trained(left[method].get(task, []), REACHES[1])) for task in tasks),
            *(str(sum(_trained(ways_, reach) for ways_ in left[method].values())) for reach in REACHES),
        ]
        for method in ranked
    ]
    return [
        "Percent that is left of the way from no training to the best of all, mean over all rates under AdamW; a run "
        "that diverged has all of it left. Last column: seed by seed against nothing.\n",
        markdown(["method", *tasks, "mean", "against nothing"], ways),
        f"Rates that train under AdamW: no more than {REACHES[1]} % of the way are left in the mean. Last columns: all "
        f"of them, where {', '.join(map(str, REACHES))} % may be left.\n",
        markdown(["method", *tasks, *(f"all, {reach} %" for reach in REACHES)], counts),
    ]


def _trained(ways: list[list[float]], reach: float) -> int:
    return sum(statistics.fmean(seeds) <= reach for seeds in ways)


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
        found = [(o, untouched.get(identity(replace(t, method=stayed), "switch"))) for t, o in group]
        pairs = [(outcome, twin[1]) for outcome, twin in found if twin]
        if not pairs:
            continue
        differences = [outcome.score - twin.score for outcome, twin in pairs]
        after = slice(int(at) // CURVE_STEPS, (int(at) + JOLT_STEPS) // CURVE_STEPS)
        rises = [[a - b for a, b in zip(o.losses(), twin.losses(), strict=False)][after] for o, twin in pairs]
        jolts = [max(each, default=math.nan) for each in rises]
        name = f"{optimizer}, {direction} at step {at}"
        lines.append([name, transfer, with_spread(differences, sign=True), with_spread(jolts, sign=True)])
        drawn.setdefault(name, {})[transfer] = pairs
    text = (
        "Against the run of the same seed that goes on as this one began, its twin: score at the end, and jolt, the "
        f"most that the loss rose above the twin's within {JOLT_STEPS} steps.\n"
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
        start = untrained([row for row in group if row[0].precision == "float32"] or group)
        lines, gone = [], []
        for (method,), runs in by(group, "method").items():
            at = {one: [o.score for t, o in runs if (t.precision, t.lr) == one] for one in settings}
            lines.append([str(method), *map(with_spread, at.values())])
            if count := sum(lost(*row, start) for row in runs):
                gone.append(f"{method} {count} of {len(runs)}")
        head = ["method", *(f"{precision}, {rate:g}" for precision, rate in settings)]
        texts += [f"**{task}, {optimizer}** ({unit})\n", markdown(head, lines)]
        texts.append(
            f"Lost, by a loss that was not finite or a score above {number(start)}, that of the first steps at the "
            "slowest rate here: "
            f"{', '.join(gone) if gone else f'none of {len(group)} runs'}.\n"
        )
        for (precision,), runs in sorted(by(group, "precision").items(), key=lambda one: PRECISIONS.index(one[0][0])):
            found = {
                str(method): {rate: [o.score for _, o in each] for (rate,), each in by(of_method, "lr").items()}
                for (method,), of_method in by(runs, "method").items()
            }
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
