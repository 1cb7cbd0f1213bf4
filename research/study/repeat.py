"""Runs the trials of a cell again, and prints each beside its row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from study.runner import file_of, outcomes
from study.tables import Rows, markdown, number
from study.trial import FIELDS, Trial, read

__all__ = ["matching", "repeated"]

SHOWN = ("task", "optimizer", "method", "lr", "schedule", "weight_decay", "fault", "switch", "precision", "seed")


def matching(folder: Path, questions: Sequence[str], wanted: Sequence[str]) -> Rows:
    """The rows of these questions that have all of `wanted`, FIELD=VALUE each, numbers in any form.

    Raises ValueError where there is no such field, or no such row.
    """
    given = dict(one.partition("=")[::2] for one in wanted)
    unknown = [name for name in given if name not in FIELDS]
    if unknown:
        raise ValueError(f"a field is one of {', '.join(FIELDS)}: got {', '.join(unknown)}")
    rows = [row for name in questions for row in read(file_of(folder, name))]
    for name, value in given.items():
        found = [row for row in rows if _same(getattr(row[0], name), value)]
        if not found:
            known = dict.fromkeys(f"{getattr(trial, name)}" for trial, _ in rows)
            raise ValueError(f"{name} of these rows is one of {', '.join(map(repr, known))}: got {value!r}")
        rows = found
    return rows


def repeated(rows: Rows, *, workers: int, device: str = "cpu") -> str:
    """A table: what tells the trials apart, the score of the row, and the score now."""
    trials = [trial for trial, _ in rows]
    apart = [name for name in SHOWN if len({getattr(trial, name) for trial in trials}) > 1] or ["seed"]
    now = dict(outcomes(trials, workers, device))
    lines = [
        [*(_text(trial, name) for name in apart), number(outcome.score), number(now[trial].score)]
        for trial, outcome in rows
    ]
    return markdown([*apart, "score in the row", "score now"], lines)


def _same(value: object, text: str) -> bool:
    try:
        return value == float(text) if isinstance(value, int | float) else value == text
    except ValueError:
        return False


def _text(trial: Trial, name: str) -> str:
    value = getattr(trial, name)
    return f"{value:g}" if isinstance(value, float) else str(value) or "–"
