"""What the study will take: trials and time of each question."""

from __future__ import annotations

from collections import Counter

from study.questions import Question, Scale
from study.trial import Trial

__all__ = ["MILLISECONDS", "plan", "seconds"]

MILLISECONDS = {
    "language": 8.5,
    "digits-cnn": 1.7,
    "digits-vit": 6.5,
    "co2": 6.5,
    "cartpole": 2.5,
    "pendulum": 2.8,
    "bandit": 0.8,
    "language-large": 60.0,
}
"""Of one core for a step, the method with it; language-large: of a GPU. Yours: column `seconds` after `--quick`."""

_START = 0.1
_SLOWER = {"float32": 1.0, "float16": 2.0, "fp4": 2.4}
"""On a CPU; a GPU is no slower in float16."""


def seconds(trial: Trial) -> float:
    """About how long a trial takes one core."""
    return _START + trial.steps * MILLISECONDS[trial.task] * _SLOWER[trial.precision] / 1000


def plan(questions: list[Question], scale: Scale, workers: int) -> str:
    """The budget as a table."""
    lines = [f"{'question':<14} {'trials':>7} {'steps':>10} {'core-minutes':>13}  tasks", ""]
    whole = 0.0
    count = 0
    for question in questions:
        trials = list({trial.key: trial for trial in question.trials(scale)}.values())
        tasks = Counter(trial.task for trial in trials)
        took = sum(map(seconds, trials))
        whole, count = whole + took, count + len(trials)
        steps = sum(trial.steps for trial in trials)
        told = ", ".join(f"{task} {number}" for task, number in tasks.items())
        lines.append(f"{question.name:<14} {len(trials):>7,} {steps:>10,} {took / 60:>13.1f}  {told}")
    cores = max(workers, 1)
    lines += [
        "",
        f"{'all':<14} {count:>7,} {'':>10} {whole / 60:>13.1f}  on {cores} cores {whole / 60 / cores:.0f} min",
    ]
    return "\n".join(lines)
