"""Two schedules of the rate, and the methods that reviewers ask for: differences from nothing, seed by seed."""

from __future__ import annotations

from study.default_answers import fault_words
from study.pictures import draw, losses
from study.tables import Answer, Rows, by, identity, markdown, twins, with_spread
from study.tasks.registry import TASKS
from study.trial import Trial

__all__ = ["asked_for"]


def asked_for(rows: Rows) -> Answer:
    """For each task: scores against nothing by schedule and rate; what each fault costs against the run without it."""
    texts, panels = [], []
    for (task,), group in by(rows, "task").items():
        calm = [row for row in group if not row[0].fault]
        unit = TASKS[str(task)].unit
        untouched = twins([row for row in calm if row[0].method == "nothing"], "method")
        columns = list(dict.fromkeys(map(_column, (trial for trial, _ in calm))))
        cells: dict[str, dict[str, list[float]]] = {}
        for trial, outcome in calm:
            if trial.method != "nothing" and (twin := untouched.get(identity(trial, "method"))):
                cell = cells.setdefault(trial.method, {}).setdefault(_column(trial), [])
                cell.append(outcome.score - twin[1].score)
        scores = {one: [o.score for t, o in calm if (t.method, _column(t)) == ("nothing", one)] for one in columns}
        compared = sum(len(found) for found in cells.values())
        texts.append(
            f"**{task}: score against nothing, seed by seed** ({unit}). {compared} differences, not corrected for "
            "their number: one in twenty is expected to lie twice its standard error from zero by chance.\n"
        )
        lines = [["nothing, the score", *(with_spread(scores[one]) for one in columns)]]
        lines += [
            [method, *(with_spread(found.get(one, []), sign=True) for one in columns)]
            for method, found in cells.items()
        ]
        texts.append(markdown(["method", *columns], lines))
        without = twins(calm, "fault")
        faulty: dict[str, dict[str, list[float]]] = {}
        for trial, outcome in group:
            if trial.fault and (twin := without.get(identity(trial, "fault"))):
                cell = faulty.setdefault(trial.method, {}).setdefault(fault_words(trial), [])
                cell.append(outcome.score - twin[1].score)
        kinds = list(dict.fromkeys(kind for found in faulty.values() for kind in found))
        if kinds:
            texts.append(f"**{task}: score more than without the fault, seed by seed** ({unit})\n")
            lines = [
                [method, *(with_spread(found.get(kind, []), sign=True) for kind in kinds)]
                for method, found in faulty.items()
            ]
            texts.append(markdown(["method", *kinds], lines))
        texts += _against_robust(str(task), unit, group)
        slowest = min(trial.lr for trial, _ in group)
        drawn = {
            str(method): [o for t, o in found if not t.fault and (t.lr, t.schedule) == (slowest, "cosine")]
            for (method,), found in by(group, "method").items()
        }
        panels.append(losses(f"{task}, {slowest:g}, cosine", drawn))
    return Answer(
        "\n".join([*texts, "![loss with warm-up and cosine](images/study/asked-for.svg)\n"]),
        {"asked-for.svg": draw(panels)},
    )


def _against_robust(task: str, unit: str, rows: Rows) -> list[str]:
    """Where a run with a fault ends, whatever it is without one."""
    robust = twins([row for row in rows if row[0].fault and row[0].method == "robust"], "method")
    cells: dict[str, dict[str, list[float]]] = {}
    for trial, outcome in rows:
        if trial.fault and trial.method != "robust" and (twin := robust.get(identity(trial, "method"))):
            cell = cells.setdefault(trial.method, {}).setdefault(fault_words(trial), [])
            cell.append(outcome.score - twin[1].score)
    if not cells:
        return []
    kinds = list(dict.fromkeys(kind for found in cells.values() for kind in found))
    lines = [
        [method, *(with_spread(found.get(kind, []), sign=True) for kind in kinds)] for method, found in cells.items()
    ]
    return [
        f"**{task}: score with the fault against robust with the same fault, seed by seed** ({unit})\n",
        markdown(["method", *kinds], lines),
    ]


def _column(trial: Trial) -> str:
    return f"{trial.lr:g}, {trial.schedule}"
