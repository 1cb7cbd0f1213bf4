"""Each question's answer: tables and pictures, computed from the rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace

from study import svg
from study.asked_for_answers import asked_for
from study.default_answers import default
from study.pictures import apart, draw, scores
from study.precision import PRECISIONS
from study.spike_answers import spikes, throttling
from study.svg import Panel
from study.tables import Answer, Rows, by, identity, markdown, mean, number, twins, with_spread
from study.tasks.registry import TASKS
from study.warning_answers import early_warning
from study.trial import CURVE_STEPS, Outcome, Trial

__all__ = ["ANSWERS", "lost"]

REACHES = (5, 10, 20)
"""A rate trains if no more than so many percent of the way from no training to the best of all methods are left."""
JOLT_STEPS = 40
"""What the loss does in these after a switch is the switch's own doing."""


PARTS: dict[str, Callable[[float, float], bool]] = {
    "slower": lambda rate, best: rate < best,
    "best": lambda rate, best: rate == best,
    "faster": lambda rate, best: rate > best,
}
"""Rates, by where they lie from the best one of untouched gradients."""


def untrained(rows: Rows) -> float:
    """The score before training, of rows of one task: their first losses at the slowest rate, or that of chance."""
    by_chance = TASKS[rows[0][0].task].by_chance
    slowest = min(trial.lr for trial, _ in rows)
    return mean(outcome.first for trial, outcome in rows if trial.lr == slowest) if by_chance is None else by_chance


def lost(trial: Trial, outcome: Outcome, before: float) -> bool:
    """Whether a loss or the score was not finite, or training left the model worse than it was `before`.

    Returns may well be worse than chance for a while: of those only what is not finite counts.
    """
    worse = TASKS[trial.task].by_chance is None and outcome.score > before
    return outcome.diverged or outcome.bad_steps > 0 or worse


def rates(rows: Rows) -> Answer:
    """How much is left of the way at all rates, how many of them train, and the best of each method."""
    texts: list[str] = []
    panels: list[Panel] = []
    left: dict[str, dict[str, list[float]]] = {}
    trained: dict[str, dict[str, list[int]]] = {}
    parts: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in PARTS}
    for (task, optimizer), group in by(rows, "task", "optimizer").items():
        unit, start = TASKS[str(task)].unit, untrained(group)
        found = _found(group, "lr")
        means = {method: {rate: mean(seeds) for rate, seeds in each.items()} for method, each in found.items()}
        reached = [score for each in means.values() for score in each.values() if math.isfinite(score)]
        if not reached:
            continue
        best = min(reached)
        limits = [best + reach / 100 * (start - best) for reach in REACHES]
        turning = min(means["nothing"], key=lambda rate: means["nothing"][rate]) if "nothing" in means else math.nan
        lines = []
        for method, each in means.items():
            good = [[rate for rate, score in each.items() if score <= limit] for limit in limits]
            near = good[1]
            top = min(each, key=lambda rate: each[rate])
            gone = sum(lost(*row, start) for row in group if row[0].method == method)
            lines.append(
                [method, f"{len(near)} of {len(each)}", f"{min(near):g} … {max(near):g}" if near else "none",
                 with_spread(found[method][top]), f"{top:g}", str(gone)]
            )  # fmt: skip
            if optimizer == "adamw":
                left.setdefault(method, {})[task] = _left(found[method], best, start)
                trained.setdefault(method, {})[task] = [*map(len, good)]
                for name, belongs in PARTS.items():
                    if some := {rate: scores for rate, scores in found[method].items() if belongs(rate, turning)}:
                        parts[name].setdefault(method, {})[task] = _left(some, best, start)
        texts.append(
            f"**{task}, {optimizer}** ({unit}; untrained {number(start)}, a rate trains up to {number(limits[1])})\n"
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
    return Answer(
        "\n".join([*_over_tasks(left, trained), *_by_part(parts), picture, told, *texts]), {"rates.svg": draw(panels)}
    )


def _found(rows: Rows, name: str) -> dict[str, dict[float, list[float]]]:
    """Scores of the seeds, by method and by a field of the trials."""
    return {
        method: {at: [outcome.score for _, outcome in runs] for (at,), runs in by(of_method, name).items()}
        for (method,), of_method in by(rows, "method").items()
    }


def _left(found: dict[float, list[float]], best: float, start: float) -> list[float]:
    """Percent of the way from `start` to `best` that a method has before it, mean over rates; seed by seed.

    From 0 to 100 at each rate: all of it where a run diverged.
    """
    return [
        statistics.fmean(100 * min(max((score - best) / (start - best), 0.0), 1.0) for score in of_one_seed)
        for of_one_seed in zip(*found.values(), strict=False)
    ]


def _over_tasks(left: dict[str, dict[str, list[float]]], trained: dict[str, dict[str, list[int]]]) -> list[str]:
    """Two measures over all rates under AdamW. left: by method, task and seed. trained: by method, task and reach."""
    tasks = list(dict.fromkeys(task for each in left.values() for task in each))
    way = {method: [*map(statistics.fmean, zip(*each.values(), strict=False))] for method, each in left.items()}
    ranked = sorted(way, key=lambda method: statistics.fmean(way[method]))
    ways, counts = [], []
    for method in ranked:
        against = [one - other for one, other in zip(way[method], way["nothing"], strict=False)]
        ways.append(
            [method, *(with_spread(left[method].get(task, [])) for task in tasks), with_spread(way[method]),
             "" if method == "nothing" else with_spread(against, sign=True)]
        )  # fmt: skip
        each = trained[method]
        sums = [sum(of_reach) for of_reach in zip(*each.values(), strict=True)]
        counts.append([method, *(str(each[task][1]) if task in each else "" for task in tasks), *map(str, sums)])
    return [
        "Percent that is left of the way from no training to the best of all, mean over all rates under AdamW; a run "
        "that diverged has all of it left. Last column: seed by seed against nothing.\n",
        markdown(["method", *tasks, "mean", "against nothing"], ways),
        f"Rates that train under AdamW: no more than {REACHES[1]} % of the way are left in the mean. Last columns: all "
        f"of them, where {', '.join(map(str, REACHES))} % may be left.\n",
        markdown(["method", *tasks, *(f"all, {reach} %" for reach in REACHES)], counts),
    ]


def _by_part(parts: dict[str, dict[str, dict[str, list[float]]]]) -> list[str]:
    """Percent left against nothing, by part of the rates. parts: by part, method, task and seed."""
    methods = [method for method in parts["best"] if method != "nothing"]
    against = {
        (name, method): [
            one - other
            for one, other in zip(_mean_of_tasks(ways[method]), _mean_of_tasks(ways["nothing"]), strict=False)
        ]
        for name, ways in parts.items()
        for method in methods
        if method in ways and "nothing" in ways
    }
    if not against:
        return []
    ranked = sorted(methods, key=lambda method: statistics.fmean(against.get(("faster", method), [math.inf])))
    lines = []
    for method in ranked:
        faster = against.get(("faster", method), [])
        lines.append(
            [method, *(with_spread(against.get((name, method), []), sign=True) for name in parts),
             f"{sum(each < 0 for each in faster)} of {len(faster)}"]
        )  # fmt: skip
    return [
        "The same against nothing, seed by seed, in three parts: rates slower than the best one of untouched gradients "
        "of each task, that one (chosen by their own scores, which is in their favour), and faster ones. "
        f"{len(against)} differences, not corrected for their number: one in twenty is expected to lie twice its "
        "standard error from zero by chance. Last column: seeds in which faster rates have less left.\n",
        markdown(["method", *parts, "seeds better at faster"], lines),
    ]


def _mean_of_tasks(of_tasks: dict[str, list[float]]) -> list[float]:
    """Seed by seed."""
    return [*map(statistics.fmean, zip(*of_tasks.values(), strict=False))]


def weight_decay(rows: Rows) -> Answer:
    """Score by strength, and how far the strengths lie apart."""
    texts = [
        "Width: between the best and the worst strength.\n",
        "![score by strength](images/study/weight-decay.svg)\n",
    ]
    panels = []
    for (task,), group in by(rows, "task").items():
        unit = TASKS[str(task)].unit
        found = _found(group, "weight_decay")
        strengths = sorted({trial.weight_decay for trial, _ in group})
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
        jolts = [max(outcome.above(twin)[after], default=math.nan) for outcome, twin in pairs]
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
            f"slowest rate here: {', '.join(gone) if gone else f'none of {len(group)} runs'}.\n"
        )
        for (precision,), runs in sorted(by(group, "precision").items(), key=lambda one: PRECISIONS.index(one[0][0])):
            name = f"{task}, {optimizer}, {precision}"
            panels.append(scores(name, "learning rate", unit, _found(runs, "lr"), log_x=True, high=start))
    return Answer("\n".join(texts), {"low-bit.svg": draw(panels)})


ANSWERS: dict[str, Callable[[Rows], Answer]] = {
    "rates": rates,
    "spikes": spikes,
    "throttling": throttling,
    "weight decay": weight_decay,
    "switching": switching,
    "low bit": low_bit,
    "default": default,
    "asked for": asked_for,
    "early warning": early_warning,
}
