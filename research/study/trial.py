"""One training run of the study: what is to be done, and what came of it; both are one row of a CSV file."""

from __future__ import annotations

import csv
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

import msgspec

__all__ = ["CURVE_STEPS", "FIELDS", "Outcome", "Trial", "append", "read"]

CURVE_STEPS = 10
"""Steps whose mean training loss is one point of a curve."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one run is made of. All of it together is its identity: a row that is there already is not run again.

    method: a name of `methods.METHODS`. fault: "" or FACTOR/EXTENT/DIRECTION/AT[/COUNT[/EVERY]], see `faults`. switch:
    "" or DIRECTION/AT/TRANSFER, see `run`. precision: one of `precision.PRECISIONS`. schedule: of the learning rate,
    one of `run.SCHEDULES`. recorded: whether the row has each step's signals.
    """

    question: str
    task: str
    optimizer: str
    method: str
    lr: float
    steps: int
    seed: int
    weight_decay: float = 0.0
    fault: str = ""
    switch: str = ""
    precision: str = "float32"
    schedule: str = "constant"
    recorded: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for equal trials, also after a way through CSV."""
        return tuple(f"{value:g}" if isinstance(value, float) else str(value) for value in asdict(self).values())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial.

    score: the task's own measure at the end on data that was not trained on, lower is better; inf where the run
    diverged. first, last: training loss, means of CURVE_STEPS steps at the start and at the end. bad_steps: steps with
    a loss that was not finite. throttled: steps after the fault, or of the whole run without one, in which the smallest
    target was below 0.3; target_min: that target (of the stabilizer only). seconds: of CPU, for training alone. curve:
    mean training losses of CURVE_STEPS steps each, joined by ";". signals: where they are recorded, of each step the
    loss, the total norm of the gradient and that of the optimizer's update, joined by " ", and steps by ";".
    """

    score: float
    first: float
    last: float
    diverged: bool
    bad_steps: int
    throttled: int
    target_min: float
    seconds: float
    curve: str
    signals: str = ""

    def series(self) -> tuple[list[float], list[float], list[float]]:
        """Loss, gradient norm and update norm, step by step."""
        steps = [[float(value) for value in step.split(" ")] for step in self.signals.split(";")]
        loss, gradient, update = (list(each) for each in zip(*steps, strict=True))
        return loss, gradient, update

    def losses(self) -> list[float]:
        """The curve's points."""
        return [float(point) for point in self.curve.split(";")] if self.curve else []

    def above(self, twin: Outcome) -> list[float]:
        """How far each point of the curve is above that of another run, as far as both go."""
        return [one - other for one, other in zip(self.losses(), twin.losses(), strict=False)]


FIELDS, _OUTCOME = ([field.name for field in fields(kind)] for kind in (Trial, Outcome))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


_DEFAULTS = {
    field.name: _text(field.default)
    for kind in (Trial, Outcome)
    for field in fields(kind)
    if field.default is not MISSING
}


def append(file: Path, trial: Trial, outcome: Outcome) -> None:
    """One more row, in the file when this returns: whoever ends the study loses nothing that is done."""
    whole = _whole_lines(file)
    columns = whole.partition("\n")[0].split(",") if whole else FIELDS + _OUTCOME
    values = {name: _text(value) for name, value in (asdict(trial) | asdict(outcome)).items()}
    # A file of before a field was added keeps its columns; a value that is not that field's default is an error in it.
    values = {name: value for name, value in values.items() if name in columns or value != _DEFAULTS.get(name)}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", newline="", encoding="utf-8") as out:
        out.truncate(len(whole.encode()))  # the study may have been ended in the middle of a line
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        if not whole:
            writer.writeheader()
        writer.writerow(values)


def read(file: Path) -> list[tuple[Trial, Outcome]]:
    """All complete rows; nothing for a file that is not there. Of equal trials the last one counts."""
    found: dict[tuple[str, ...], tuple[Trial, Outcome]] = {}
    for row in csv.DictReader(_whole_lines(file).splitlines()):
        trial = msgspec.convert({name: row[name] for name in FIELDS if name in row}, Trial, strict=False)
        outcome = msgspec.convert({name: row[name] for name in _OUTCOME if name in row}, Outcome, strict=False)
        found[trial.key] = trial, outcome
    return list(found.values())


def _whole_lines(file: Path) -> str:
    text = file.read_text("utf-8") if file.exists() else ""
    return text[: text.rfind("\n") + 1]
