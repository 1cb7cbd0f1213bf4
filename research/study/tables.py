"""From rows to tables: groups, means and spreads, and how they are written as Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from study.trial import Outcome, Trial

__all__ = ["Answer", "Row", "Rows", "by", "identity", "markdown", "mean", "number", "spread", "twins", "with_spread"]

Row = tuple[Trial, Outcome]
Rows = list[Row]


@dataclass(frozen=True, slots=True)
class Answer:
    """text: Markdown; pictures: SVG by file name."""

    text: str
    pictures: dict[str, str] = field(default_factory=dict)


def by(rows: Rows, *names: str) -> dict[tuple[Any, ...], Rows]:
    """Rows grouped by fields of their trials, in the order in which groups appear."""
    order: dict[tuple[object, ...], int] = {}
    key = {id(row): tuple(getattr(row[0], name) for name in names) for row in rows}
    for row in rows:
        order.setdefault(key[id(row)], len(order))
    ordered = sorted(rows, key=lambda row: order[key[id(row)]])
    return {group: list(members) for group, members in groupby(ordered, key=lambda row: key[id(row)])}


def twins(rows: Rows, *changed: str) -> dict[tuple[object, ...], Row]:
    """Rows by all that they are but `changed`: what a run is compared with has the same."""
    return {identity(trial, *changed): (trial, outcome) for trial, outcome in rows}


def identity(trial: Trial, *changed: str) -> tuple[object, ...]:
    """What a trial is but for `changed`."""
    return tuple(getattr(trial, name) for name in Trial.__dataclass_fields__ if name not in changed)


def mean(values: Iterable[float]) -> float:
    """inf where one is: a method that loses one run of five has no mean to be proud of."""
    found = list(values)
    return statistics.fmean(found) if found and all(map(math.isfinite, found)) else math.inf


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds; 0 of one."""
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else 0.0


def number(value: float, *, sign: bool = False) -> str:
    """Three digits, or a dash for what is no number."""
    if not math.isfinite(value):
        return "–"
    plus = "+" if sign else ""
    return format(value, f"{plus},.0f" if abs(value) >= 1000 else f"{plus}.3g")


def with_spread(values: Sequence[float], *, sign: bool = False) -> str:
    """Mean ± spread, both to the second digit of the spread, and how many did not end well where some did not."""
    good = [value for value in values if math.isfinite(value)]
    lost = len(values) - len(good)
    if not good:
        return "diverged" if values else ""
    middle, around = statistics.fmean(good), spread(good)
    if len(good) == 1:
        told = number(middle, sign=sign)
    else:
        digits = _decimals(around or middle)
        told = f"{_fixed(middle, digits, '+' if sign else '')} ± {_fixed(around, digits)}"
    return f"{told} ({lost} of {len(values)} diverged)" if lost else told


def _decimals(value: float) -> int:
    """Places after the point that show two digits of `value`: from 0 to 4, which is finer than anything here is."""
    return min(max(1 - math.floor(math.log10(abs(value))), 0), 4) if value else 4


def _fixed(value: float, digits: int, plus: str = "") -> str:
    """Without the sign of a zero that rounding made."""
    rounded = round(value, digits)
    return format(rounded or 0.0, f"{plus if rounded else ''},.{digits}f")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. Words to the left, numbers to the right."""
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
