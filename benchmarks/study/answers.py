"""Each question's answer: tables, pictures, and a sentence that is computed from the rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from study.faults import Fault
from study.svg import Line, Panel, draw
from study.tables import Rows, by, identity, markdown, mean, number, spread, twins, with_spread
from study.tasks.registry import TASKS
from study.trial import CURVE_STEPS, Outcome, Trial

from steadynorm_contract.rule import TensorState, advance
from steadynorm_contract.settings import Mode, Settings

__all__ = ["ANSWERS", "Answer", "recovery", "theory"]

REACH = 0.1
"""A rate trains if it comes this near to the best of all methods, as a share of the way from where training began."""
RECOVERED = 0.02
"""A run has recovered when its loss is this near to that of the run without a spike, as a share of the same way."""

RULES = {
    "paper": Settings(),
    "paper, limit 3": Settings(spike_limit=3.0),
    "paper, limit 10": Settings(spike_limit=10.0),
    "paper, 0.7/0.9": Settings(gamma1=0.7, gamma2=0.9),
    "paper, 0.85/0.99999": Settings(gamma1=0.85, gamma2=0.99999),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """text: Markdown; pictures: SVG by file name."""

    text: str
    pictures: dict[str, str] = field(default_factory=dict)


def rates(rows: Rows) -> Answer:
    """How many of the rates train, by method."""
    texts: list[str] = []
    panels: list[Panel] = []
    totals: dict[str, list[int]] = {}
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
                totals.setdefault(method, []).append(len(good))
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
    ranked = sorted(totals.items(), key=lambda item: -sum(item[1]))
    told = "; ".join(f"{method} {sum(counts)}" for method, counts in ranked)
    summary = f"Rates that train under AdamW, summed over the tasks: {told}.\n"
    return Answer(
        "\n".join([summary, "![score by learning rate](images/study/rates.svg)\n", *texts]), {"rates.svg": draw(panels)}
    )


def spikes(rows: Rows) -> Answer:
    """Extra score and steps to recover against the same run without the spike."""
    calm = twins([row for row in rows if not row[0].fault], "fault")
    texts, panels = [], []
    costs: dict[str, list[float]] = {}
    for (task, optimizer), group in by(rows, "task", "optimizer").items():
        spiked = [row for row in group if row[0].fault]
        kinds = list(dict.fromkeys(trial.fault.rsplit("/", 1)[0] for trial, _ in spiked))
        extra: list[list[str]] = []
        steps: list[list[str]] = []
        for (method,), runs in by(spiked, "method").items():
            more, slow = [str(method)], [str(method)]
            for kind in kinds:
                pairs = [(t, o, calm[identity(t, "fault")][1]) for t, o in runs if t.fault.startswith(kind + "/")]
                differences = [o.score - twin.score for _, o, twin in pairs]
                more.append(with_spread(differences, sign=True))
                slow.append(_median([recovery(t, o, twin) for t, o, twin in pairs]))
                costs.setdefault(str(method), []).append(mean(differences))
            extra.append(more)
            steps.append(slow)
        head = ["method", *(kind.replace("/", "×, ", 1).replace("/", ", ") for kind in kinds)]
        unit = TASKS[str(task)].unit
        texts += [f"**{task}, {optimizer}: score more than without the spike** ({unit})\n", markdown(head, extra)]
        texts += [f"**{task}, {optimizer}: steps until it has recovered** (median)\n", markdown(head, steps)]
        worst = next((kind for kind in reversed(kinds) if kind.endswith("all/kept")), kinds[-1])
        drawn = {str(method): [o for t, o in runs if t.fault.startswith(worst + "/")]
                 for (method,), runs in by(spiked, "method").items()}  # fmt: skip
        panels.append(_losses(f"{task}, {optimizer}: {worst.replace('/', '×, ', 1).replace('/', ', ')}", drawn))
    ranked = sorted(costs.items(), key=lambda item: _middle(item[1]))
    told = "; ".join(f"{method} {number(_middle(values), sign=True)}" for method, values in ranked)
    summary = f"Median extra score over all kinds of spike and tasks: {told}.\n"
    return Answer(
        "\n".join([summary, "![loss after a spike](images/study/spikes.svg)\n", *texts]), {"spikes.svg": draw(panels)}
    )


def throttling(rows: Rows) -> Answer:
    """Steps below target 0.3 after a spike, of the rule on constant norms and as measured."""
    factors = sorted({float(trial.fault.split("/")[0]) for trial, _ in rows})
    lines, ends = [], []
    for (method, switch), group in by(rows, "method", "switch").items():
        name = f"{method}, reset after 10 steps" if switch else str(method)
        cells = []
        for factor in factors:
            runs = [(t, o) for t, o in group if float(t.fault.split("/")[0]) == factor]
            if not runs:
                cells += ["", ""]
                continue
            left = runs[0][0].steps - _at(runs[0][0]) - 1
            measured = mean(o.throttled for _, o in runs)
            cells.append(f"{number(measured)}{' (all)' if measured >= left else ''} of {left}")
            cells.append(str(theory(str(method), factor, reset_after=10 if switch else None)))
        lines.append([name, *cells])
        scores = [[o.score for t, o in group if float(t.fault.split("/")[0]) == factor] for factor in factors]
        ends.append([name, *(with_spread(each) if each else "" for each in scores)])
    head = ["method", *(f"{factor:g}×: {what}" for factor in factors for what in ("measured", "theory"))]
    panels = []
    for factor in factors:
        drawn = {
            f"{method}{', reset' if switch else ''}": [o for t, o in group if float(t.fault.split("/")[0]) == factor]
            for (method, switch), group in by(rows, "method", "switch").items()
        }
        panels.append(_losses(f"{number(factor)}× on all tensors", drawn))
    text = (
        "Steps with a smallest target below 0.3 after the spike. Theory: the rule's own floats, norms that are equal "
        "but for the spike, without end; measured: the smallest of all tensors, until the run ended.\n"
    )
    told = "What the same runs had come to at their end, so many steps after the spike:\n"
    end = markdown(["method", *(f"{factor:g}×" for factor in factors)], ends)
    picture = "![loss after a spike](images/study/throttling.svg)\n"
    return Answer("\n".join([text, markdown(head, lines), told, end, picture]), {"throttling.svg": draw(panels)})


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
    for (task,), group in by(rows, "task").items():
        settings = list(by(group, "precision", "lr"))
        lines = [
            [str(method), *(with_spread([o.score for t, o in runs if (t.precision, t.lr) == one]) for one in settings)]
            for (method,), runs in by(group, "method").items()
        ]
        head = ["method", *(f"{precision}, {rate:g}" for precision, rate in settings)]
        texts += [f"**{task}** ({TASKS[str(task)].unit})\n", markdown(head, lines)]
    return Answer("\n".join(texts))


def recovery(trial: Trial, outcome: Outcome, calm: Outcome) -> float:
    """Steps from the fault until the loss is back at that of the run without it; inf: not before the end."""
    at = _at(trial) // CURVE_STEPS
    near = RECOVERED * max(calm.first - calm.last, 0.0)
    pairs = list(zip(outcome.losses(), calm.losses(), strict=False))
    for place in range(at, len(pairs)):
        if all(loss <= other + near for loss, other in pairs[place : place + 2]):
            return float((place - at) * CURVE_STEPS)
    return math.inf


def theory(method: str, factor: float, *, reset_after: int | None = None, limit: int = 100_000) -> int:
    """Steps with a target below 0.3 after one spike of `factor` among equal norms, by the rule in plain floats."""
    state, settings = TensorState(), RULES[method]
    throttled = 0
    for step in range(limit):
        target = advance(state, factor if step == 200 else 1.0, settings, Mode.STABILIZE).target
        if step > 200:
            throttled += target < 0.3
            if reset_after and step == 200 + reset_after:
                state.norm_sum = state.norm_weight = state.square_sum = state.square_weight = 0.0
            if target >= 0.3 and step > 300:
                break
    return throttled


def _as(trial: Trial, method: str) -> Trial:
    return replace(trial, method=method)


def _at(trial: Trial) -> int:
    fault = Fault.parse(trial.fault)
    assert fault is not None
    return fault.at


def _losses(title: str, drawn: dict[str, list[Outcome]]) -> Panel:
    """Mean curves. No higher than where training began: what flies off leaves by the top."""
    high = max((outcome.first for outcomes in drawn.values() for outcome in outcomes), default=None)
    return Panel(title, "step", "training loss", [_curve(name, runs) for name, runs in drawn.items()], high=high)


def _curve(name: str, outcomes: list[Outcome]) -> Line:
    curves = [outcome.losses() for outcome in outcomes]
    length = max(map(len, curves), default=0)
    points = [[curve[at] if at < len(curve) else math.nan for curve in curves] for at in range(length)]
    means = [statistics.fmean(each) if all(map(math.isfinite, each)) else math.nan for each in points]
    return Line(name, [at * CURVE_STEPS for at in range(length)], means)


def _median(values: list[float]) -> str:
    middle = _middle(values)
    return f"{middle:.0f}" if math.isfinite(middle) else "not before the end" if values else ""


def _middle(values: list[float]) -> float:
    known = [math.inf if math.isnan(value) else value for value in values]
    return statistics.median_high(known) if known else math.nan


ANSWERS: dict[str, Callable[[Rows], Answer]] = {
    "rates": rates,
    "spikes": spikes,
    "throttling": throttling,
    "weight decay": weight_decay,
    "switching": switching,
    "low bit": low_bit,
}
