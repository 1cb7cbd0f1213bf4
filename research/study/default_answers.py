"""What the candidates for the default do: tables, and the two bars that a default has to pass."""

from __future__ import annotations

from study.faults import Fault
from study.pictures import draw, losses
from study.questions import usual_rate
from study.tables import Answer, Rows, by, identity, markdown, mean, number, twins, with_spread
from study.tasks.registry import TASKS
from study.trial import Trial

__all__ = ["default", "fault_words"]

CALM_BAR, FAULT_BAR = 0.005, 0.02
"""Nats by which a default may be worse in calm training than the paper's rule, and after faults than without them."""


def default(rows: Rows) -> Answer:
    """Cost of each fault against the same run without it, by optimizer; and regret with heavy-tailed rewards."""
    texts, panels = [], []
    worst: dict[str, list[tuple[float, str]]] = {}
    calm_worst: dict[str, list[tuple[float, str]]] = {}
    for (task, optimizer), group in by(rows, "task", "optimizer").items():
        if task == "bandit":
            texts.append(_heavy_tailed(str(optimizer), group))
            continue
        usual = usual_rate(str(optimizer))
        good = [row for row in group if row[0].lr == usual]
        calm = twins([row for row in good if not row[0].fault], "fault")
        papers = {trial.seed: outcome for trial, outcome in good if (trial.method, trial.fault) == ("paper", "")}
        methods = list(dict.fromkeys(trial.method for trial, _ in group))
        more: dict[str, dict[str, list[float]]] = {}  # by row, then by method
        for trial, outcome in good:
            if trial.fault:
                if twin := calm.get(identity(trial, "fault")):
                    more.setdefault(fault_words(trial), {}).setdefault(trial.method, []).append(
                        outcome.score - twin[1].score
                    )
            elif trial.method != "paper" and trial.seed in papers:
                difference = outcome.score - papers[trial.seed].score
                more.setdefault("calm, more than paper", {}).setdefault(trial.method, []).append(difference)
        fast = [row for row in group if row[0].lr > usual]
        scores = {
            "calm: the score": {m: [o.score for t, o in good if (t.method, t.fault) == (m, "")] for m in methods},
            "next faster rate: the score": {m: [o.score for t, o in fast if t.method == m] for m in methods},
        }
        lines = [[name, *(with_spread(found.get(method, [])) for method in methods)] for name, found in scores.items()]
        for name, found in more.items():
            lines.append([name, *(with_spread(found.get(method, []), sign=True) for method in methods)])
            for method, values in found.items():
                kept = calm_worst if name.startswith("calm") else worst
                kept.setdefault(method, []).append((mean(values), f"{optimizer}, {name}"))
        texts += [f"**{task}, {optimizer}: score more than without the fault** ({TASKS[str(task)].unit})\n"]
        texts.append(markdown(["", *methods], lines))
        drawn = {m: [o for t, o in good if t.method == m and t.fault.startswith("100/all")] for m in methods}
        panels.append(losses(f"{optimizer}: ten steps of 100×", drawn))
    told = []
    for method, costs in worst.items():
        above, _ = max(calm_worst.get(method, [(0.0, "")]))
        most, where = max(costs)
        passed = f"{sum(cost <= FAULT_BAR for cost, _ in costs)} of {len(costs)}"
        middle = sum(cost for cost, _ in costs) / len(costs)
        worst_of_all = f"{number(most, sign=True)} ({where})"
        told.append([method, number(above, sign=True), worst_of_all, passed, number(middle, sign=True)])
    head = ["method", "calm: most above paper", "faults: most", f"faults at most {FAULT_BAR}", "mean of faults"]
    return Answer(
        "\n".join(
            [
                f"Means over seeds, of every optimizer. A default may cost {CALM_BAR} in calm training, and {FAULT_BAR}"
                " after a fault.\n",
                markdown(head, told),
                "![loss under ten large steps](images/study/default.svg)\n",
                *texts,
            ]
        ),
        {"default.svg": draw(panels)},
    )


def fault_words(trial: Trial) -> str:
    """A trial's fault in a few words."""
    fault = Fault.parse(trial.fault)
    assert fault is not None
    if fault.extent == "batch":
        return f"every {fault.every}th batch bad, weight {fault.factor:g}"
    if fault.count > 1 and fault.every == 1 and fault.direction == "kept":
        return f"lasting {'rise' if fault.factor > 1 else 'fall'}, {fault.factor:g}×"
    often = (
        f", every {fault.every}th step" if fault.every > 1 else f", {fault.count:g} steps" if fault.count > 1 else ""
    )
    return f"{fault.factor:g}×, {fault.direction}{often}"


def _heavy_tailed(optimizer: str, rows: Rows) -> str:
    rates = sorted({trial.lr for trial, _ in rows})
    lines = []
    for (method,), group in by(rows, "method").items():
        at = {rate: [o.score for t, o in group if t.lr == rate] for rate in rates}
        best = min((rate for rate in rates if at[rate]), key=lambda rate: mean(at[rate]))
        lines.append([str(method), *(with_spread(at[rate]) for rate in rates), with_spread(at[best])])
    title = f"**bandit, {optimizer}: regret a pull, rewards with heavy tails**\n"
    return "\n".join([title, markdown(["method", *(f"{rate:g}" for rate in rates), "best"], lines)])
