"""docs/study.md and its pictures, from the CSV files alone: the same rows make the same page."""

from __future__ import annotations

from pathlib import Path

from study import cost, machine
from study.answers import ANSWERS
from study.faults import EXTENTS, Fault
from study.methods import METHODS
from study.optimizers import OPTIMIZERS
from study.questions import QUESTIONS, SCALES, Question, Scale
from study.runner import file_of, missing
from study.tables import Rows, markdown
from study.tasks.registry import TASKS
from study.trial import Trial, read

__all__ = ["write"]

ADVICE = Path(__file__).resolve().parent / "advice"
"""One Markdown file a question, written by people who have read its tables; made part of the page."""

_HEAD = """# The study: does it stabilize, and when?

Made by `python research/study --report` from `research/study/results`; `python research/study` makes those. Every
method has the same seeds, weights and batches. A score is measured on data that was not trained on (of a policy: on its
last games), lower is better; a cell is the mean ± the standard deviation over seeds, and of a difference that of the
differences, seed by seed. Sources of the methods stand beside their few lines in `research/study/methods.py`. Models
are as small as the machine: what holds here need not hold at a thousand times the size.
"""


def write(folder: Path, page: Path, scale: Scale, gpu: Path | None = None) -> None:
    """The page, and its pictures in images/study beside it.

    scale: what `folder` is to hold in the end. gpu: the folder of a GPU's rows, for the published page, which has
    people's advice and says what is owed.
    """
    images = page.parent / "images" / "study"
    folders = [folder] if gpu is None else [folder, gpu]
    parts = [_HEAD, _measured(folders)]
    advice = _advice if gpu else _none
    parts.append(advice("summary"))
    for index, (name, question) in enumerate(QUESTIONS.items(), 1):
        found = [row for one in folders for row in read(file_of(one, name))]
        rows: Rows = sorted(found, key=lambda row: _order(row[0]))
        parts.append(f"## {index}. {question.title}\n")
        parts.append(advice(name))
        if not rows:
            parts.append(f"Not measured yet: `python research/study --questions '{name}'`.\n")
            continue
        seeds = len({trial.seed for trial, _ in rows})
        parts.append(
            f"{len(rows):,} runs, {seeds} {'seeds' if seeds > 1 else 'seed'}.{_still(folder, question, scale)}\n"
        )
        answer = ANSWERS[name](rows)
        parts.append(answer.text)
        for file, picture in answer.pictures.items():
            images.mkdir(parents=True, exist_ok=True)
            (images / file).write_text(picture, encoding="utf-8")
    parts += [f"## {len(QUESTIONS) + 1}. What does it cost?\n", advice("cost"), *map(_cost, folders)]
    if gpu:
        parts += [f"## {len(QUESTIONS) + 2}. Which defaults?\n", advice("defaults"), _owed(gpu)]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(part for part in parts if part), encoding="utf-8")


def _measured(folders: list[Path]) -> str:
    machines = "; ".join(line for folder in folders for line in machine.read(folder))
    return (
        f"Measured with {machines}, on several days: where training is chaotic, the same trial of two questions may "
        "differ.\n"
    )


def _still(folder: Path, question: Question, scale: Scale) -> str:
    """What is not measured yet of a question."""
    left = len(missing(folder, question.trials(scale)))
    if not left:
        return ""
    return f" **{left:,} more are owed**: `python research/study --questions '{question.name}'` goes on with them."


def _order(trial: Trial) -> tuple[object, ...]:
    """As the registries list them; rows themselves come in the order in which their trials happened to end."""
    fault = Fault.parse(trial.fault)
    extents = (*EXTENTS, "batch")
    kind = (fault.factor, extents.index(fault.extent), fault.direction, fault.every) if fault else (0.0, 0, "", 0)
    what, at, how = trial.switch.split("/") if trial.switch else ("", "0", "")
    places = [*TASKS].index(trial.task), [*OPTIMIZERS].index(trial.optimizer), [*METHODS].index(trial.method)
    return (
        *places,
        trial.lr,
        trial.weight_decay,
        kind,
        what,
        int(at),
        how,
        trial.precision,
        trial.schedule,
        trial.seed,
    )


def _advice(name: str) -> str:
    file = ADVICE / f"{name.replace(' ', '-')}.md"
    return file.read_text("utf-8") if file.exists() else ""


def _none(_name: str) -> str:
    return ""


def _cost(folder: Path) -> str:
    rows = cost.read(folder)
    if not rows:
        return ""
    first = rows[0]
    whole, own = float(first["step_ms"]), float(first["optimizer_ms"])
    text = (
        f"One call in a training step of {whole:.3g} ms, of which AdamW takes {own:.3g}: a GPT of "
        f"{int(first['weights']):,} weights in {first['tensors']} tensors, on {first['device']}, by one thread. "
        "Medians. Kept: from step to step, beside the model's and the optimizer's; for a while: the most that one call "
        "allocates beside it.\n"
    )
    lines = [
        [row["method"], f"{float(row['apply_ms']):.3g}", f"{100 * float(row['apply_ms']) / whole:.2g} %",
         f"{int(row['state_bytes']):,}", f"{int(row['peak_bytes']):,}"]
        for row in rows
    ]  # fmt: skip
    return text + "\n" + markdown(["method", "ms a step", "of the step", "bytes kept", "bytes for a while"], lines)


def _owed(gpu: Path) -> str:
    owed = [question for question in QUESTIONS.values() if question.owed]
    left = sum(len(missing(gpu, question.trials(SCALES["gpu"]))) for question in owed)
    if not left and cost.read(gpu):
        return ""
    titles = " ".join(question.title for question in owed)
    return (
        "## Owed\n\n"
        f"On a GPU, with a GPT of 25 million weights, in float16 with a GradScaler and in simulated FP4: {titles} And "
        f"what it costs there. {left} runs are left of\n\n"
        "    python research/study --scale gpu --device cuda --workers 1\n\n"
        "which adds its rows to this page.\n"
    )
