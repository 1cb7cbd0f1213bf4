"""Each question's answer: tables, pictures, and a sentence that is computed from the rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from study.precision import PRECISIONS
from study.spike_answers import spikes, throttling
from study.svg import Line, Panel, draw
from study.tables import Answer, Rows, by, identity, markdown, mean, number, spread, twins, with_spread
from study.tasks.registry import TASKS
from study.trial import CURVE_STEPS, Trial

__all__ = ["ANSWERS"]

REACH = 0.1
"""A rate trains if it comes this near to the best of all methods, as a share of the way from where training began."""


def rates(rows: Rows) -> Answer:
    """How many of the rates train, by method."""
    texts: list[str] = []
    panels: list[Panel] = []
    counts: dict[str, dict[str, int]] = {}
    for (task, optimizer), group in by(rows, "task", "optimizer").items():
        found = {
            method: {rate: [outcome.score for _, outcome in runs] for (rate,), runs in by(runs_, "lr").items()}
            for (method,), runs_ in by(group, "method").items()
        }
        means = {method: {rate: mean(scores) for rate, scores in each.items()} for method, each in found.items()}
        reached = [score for each in means.values() for score in each.values() if math.isfinite(score)]
        if not reached:
            continue
        best = min(reached)
        start = max(reached) if TASKS[str(task)].unit == "minus the return" else mean(o.first for _, o in group)
        limit = best + REACH * (start - best)
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
        texts.append(f"**{task}, {optimizer}** ({TASKS[str(task)].unit}; a rate trains up to {number(limit)})\n")
        texts.append(
            markdown(["method", "rates that train", "from … to", "best score", "at rate", "runs that diverged"], lines)
        )
        panels.append(
            Panel(
                f"{task}, {optimizer}", "learning rate", TASKS[str(task)].unit,
                [Line(method, list(each), list(each.values()), [spread(found[method][rate]) for rate in each])
                 for method, each in means.items()],
                log_x=True, low=best - 0.05 * (start - best), high=start,
            )
        )  # fmt: skip
    tasks = list(dict.fromkeys(task for each in counts.values() for task in each))
    ranked = sorted(counts.items(), key=lambda item: -sum(item[1].values()))
    summary = markdown(
        ["rates that train under AdamW", *tasks, "all"],
        [[method, *(str(each.get(task, "")) for task in tasks), str(sum(each.values()))] for method, each in ranked],
    )
    return Answer(
        "\n".join([summary, "![score by learning rate](images/study/rates.svg)\n", *texts]), {"rates.svg": draw(panels)}
    )


def weight_decay(rows: Rows) -> Answer:
    """Score by strength, and how far the strengths lie apart."""
    texts, told = [], []
    for (task,), group in by(rows, "task").items():
        strengths = sorted({trial.weight_decay for trial, _ in group})
        lines = []
        for (method,), runs in by(group, "method").items():
            scores = [[o.score for t, o in runs if t.weight_decay == strength] for strength in strengths]
            means = [mean(each) for each in scores]
            width = max(means) - min(means)
            lines.append([str(method), *map(with_spread, scores), number(width)])
            told.append((width, f"{method} on {task} {number(width)}"))
        texts += [
            f"**{task}** ({TASKS[str(task)].unit})\n",
            markdown(["method", *map("{:g}".format, strengths), "width"], lines),
        ]
    summary = "Between the best and the worst strength: " + "; ".join(text for _, text in sorted(told)) + ".\n"
    return Answer("\n".join([summary, *texts]))


def switching(rows: Rows) -> Answer:
    """Score and largest rise of the loss against the run that stays as this one began."""
    untouched = twins([row for row in rows if not row[0].switch], "switch")
    lines = []
    for (optimizer, switch), group in by([row for row in rows if row[0].switch], "optimizer", "switch").items():
        direction, at, transfer = str(switch).split("/")
        stayed = "nothing" if direction == "on" else "paper"
        scores, jolts = [], []
        for trial, outcome in group:
            twin = untouched[identity(_as(trial, stayed), "switch")][1]
            scores.append(outcome.score - twin.score)
            after = int(at) // CURVE_STEPS
            rises = [one - other for one, other in zip(outcome.losses(), twin.losses(), strict=False)][after:]
            jolts.append(max(rises, default=math.nan))
        lines.append(
            [
                f"{optimizer}, {direction} at step {at}",
                transfer,
                with_spread(scores, sign=True),
                with_spread(jolts, sign=True),
            ]
        )
    text = (
        "Against the run of the same seed that goes on as this one began. Jolt: the most that the loss rose above it.\n"
    )
    return Answer("\n".join([text, markdown(["switched", "transfer", "score", "jolt"], lines)]))


def low_bit(rows: Rows) -> Answer:
    """Score and divergences by precision, rate and method."""
    texts = []
    for (task, optimizer), group in by(rows, "task", "optimizer").items():
        settings = sorted(by(group, "precision", "lr"), key=lambda one: (one[1], PRECISIONS.index(one[0])))
        lines, lost = [], []
        for (method,), runs in by(group, "method").items():
            at = {one: [o for t, o in runs if (t.precision, t.lr) == one] for one in settings}
            lines.append([str(method), *(with_spread([o.score for o in each]) for each in at.values())])
            if count := sum(outcome.diverged for _, outcome in runs):
                lost.append(f"{method} {count} of {len(runs)}")
        head = ["method", *(f"{precision}, {rate:g}" for precision, rate in settings)]
        texts += [f"**{task}, {optimizer}** ({TASKS[str(task)].unit})\n", markdown(head, lines)]
        texts.append(f"Diverged: {', '.join(lost) if lost else f'none of {len(group)} runs'}.\n")
    return Answer("\n".join(texts))


def _as(trial: Trial, method: str) -> Trial:
    return replace(trial, method=method)


ANSWERS: dict[str, Callable[[Rows], Answer]] = {
    "rates": rates,
    "spikes": spikes,
    "throttling": throttling,
    "weight decay": weight_decay,
    "switching": switching,
    "low bit": low_bit,
}
