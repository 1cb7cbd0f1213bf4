"""docs/study.md and its pictures, from the CSV files alone: the same rows make the same page."""

from __future__ import annotations

from pathlib import Path

from study import cost
from study.answers import ANSWERS
from study.faults import EXTENTS, Fault
from study.methods import METHODS
from study.optimizers import OPTIMIZERS
from study.questions import QUESTIONS, Question, Scale
from study.runner import file_of, missing
from study.tables import Rows, markdown
from study.tasks.registry import TASKS
from study.trial import Trial, read

__all__ = ["write"]

ADVICE = Path(__file__).resolve().parent / "advice"
"""One Markdown file a question, written by people who have read its tables; made part of the page."""

_HEAD = """# The study: does it stabilize, and when?

Made by `python benchmarks/study --report` from `benchmarks/study/results`; `python benchmarks/study` makes those. Every
method has the same seeds, weights and batches. A score is measured on data that was not trained on, lower is better; a
cell is the mean ± the standard deviation over seeds. Sources of the methods stand beside their few lines in
`benchmarks/study/methods.py`. Models are as small as the machine: what holds here need not hold at a thousand times the
size.
"""


def write(folder: Path, page: Path, scale: Scale) -> None:
    """The page, and its pictures in images/study beside it. scale: what `folder` is to hold in the end."""
    images = page.parent / "images" / "study"
    parts = [_HEAD, _advice("summary")]
    for index, (name, question) in enumerate(QUESTIONS.items(), 1):
        rows: Rows = sorted(read(file_of(folder, name)), key=lambda row: _order(row[0]))
        parts.append(f"## {index}. {question.title}\n")
        parts.append(_advice(name))
        if not rows:
            parts.append(f"Not measured yet: `python benchmarks/study --questions '{name}'`.\n")
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
    parts += [f"## {len(QUESTIONS) + 1}. What does it cost?\n", _advice("cost"), _cost(folder)]
    if argued := _advice("defaults"):
        parts += [f"## {len(QUESTIONS) + 2}. Which defaults?\n", argued]
    parts.append(_owed())
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(part for part in parts if part), encoding="utf-8")


def _still(folder: Path, question: Question, scale: Scale) -> str:
    """What is not measured yet of a question."""
    left = len(missing(folder, question.trials(scale)))
    if not left:
        return ""
    return f" **{left:,} more are owed**: `python benchmarks/study --questions '{question.name}'` goes on with them."


def _order(trial: Trial) -> tuple[object, ...]:
    """As the registries list them; rows themselves come in the order in which their trials happened to end."""
    fault = Fault.parse(trial.fault)
    kind = (fault.factor, EXTENTS.index(fault.extent), fault.direction) if fault else (0.0, 0, "")
    what, at, how = trial.switch.split("/") if trial.switch else ("", "0", "")
    places = [*TASKS].index(trial.task), [*OPTIMIZERS].index(trial.optimizer), [*METHODS].index(trial.method)
    return (*places, trial.lr, trial.weight_decay, kind, what, int(at), how, trial.precision, trial.seed)


def _advice(name: str) -> str:
    file = ADVICE / f"{name.replace(' ', '-')}.md"
    return file.read_text("utf-8") if file.exists() else ""


def _cost(folder: Path) -> str:
    rows = cost.read(folder)
    if not rows:
        return "Not measured yet.\n"
    first = rows[0]
    text = (
        f"One call beside AdamW's step of {float(first['optimizer_ms']):.3g} ms: a GPT of {int(first['weights']):,} "
        f"weights in {first['tensors']} tensors, on {first['device']}, one thread. Medians; state beside the "
        "model's and the optimizer's.\n"
    )
    lines = [[row["method"], f"{float(row['apply_ms']):.3g}", f"{int(row['state_bytes']):,}"] for row in rows]
    return text + "\n" + markdown(["method", "ms a step", "bytes of state"], lines)


def _owed() -> str:
    owed = ", ".join(question.title for question in QUESTIONS.values() if question.owed)
    return (
        "## Owed\n\n"
        "On a GPU, with a GPT of 26 million weights, in float16 with a GradScaler and in simulated FP4: "
        f"{owed} Given by\n\n"
        "    python benchmarks/study --scale gpu --device cuda --workers 1\n"
    )
