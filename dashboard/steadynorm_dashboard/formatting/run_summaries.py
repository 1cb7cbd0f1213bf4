"""How far compared runs have come in one signal: newest, best, mean of the newest steps, and differences to one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steadynorm_contract.series import Series
from steadynorm_contract.signals import Signal
from steadynorm_dashboard.formatting import escaping

NEWEST_STEPS = 100
MEAN = f"mean of last {NEWEST_STEPS} steps"
MEASURES = ("last", "best", MEAN)
DIFFERENCE = "difference of the {}"
"""Title of the column beside each measure: its difference to the baseline's."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One signal of one run, by the names of the measures; None where nothing is recorded."""

    label: str  # not escaped
    values: Mapping[str, float | None]


def summary(label: str, of: Signal, last: float | None, whole: Series | None, newest: Series | None) -> Summary:
    """Of a run's newest value, its whole history and its newest steps, each as series of one bucket or a few.

    The best value is the smallest one, or the largest one where small values are bad.
    """
    extremes = [] if whole is None else whole.max if of.worst == "min" else whole.min
    known = [value for value in extremes if value is not None]
    best = (max if of.worst == "min" else min)(known, default=None)
    return Summary(label, {"last": last, "best": best, MEAN: _mean(newest)})


def rows(summaries: Sequence[Summary], baseline: int) -> list[dict[str, object]]:
    """Rows of a table: each measure beside its difference to that of the run at `baseline`."""
    table = []
    for at, one in enumerate(summaries):
        row: dict[str, object] = {"run": escaping.visible(one.label) + (" (baseline)" if at == baseline else "")}
        for name in MEASURES:
            value, its = one.values[name], summaries[baseline].values[name]
            row[name] = value
            row[DIFFERENCE.format(name)] = None if at == baseline or value is None or its is None else value - its
        table.append(row)
    return table


def _mean(series: Series | None) -> float | None:
    """Over the buckets, each by its number of steps."""
    buckets = [] if series is None else zip(series.mean, series.count, strict=True)
    known = [(mean, count) for mean, count in buckets if mean is not None]
    steps = sum(count for _, count in known)
    return sum(mean * count for mean, count in known) / steps if steps else None
