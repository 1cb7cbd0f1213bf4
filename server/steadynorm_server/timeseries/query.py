"""Series for charts from stored blocks: a bounded number of buckets of equal width that retain all extremes.

The width of a bucket is a power of two and buckets begin at its multiples. So they nest in the stored ones, and the
chart of a growing run keeps its buckets until they double. A bucket's `step` is the first step recorded in it.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from steadynorm_contract.series import Series
from steadynorm_contract.telemetry import ROW_COLUMNS, SCALAR_COLUMNS
from steadynorm_server.errors import ProblemError, invalid
from steadynorm_server.timeseries.blocks import Block, Column, bucket_ranges
from steadynorm_server.timeseries.rollups import ROLLED_ROW_COLUMNS, ROWS, SCALARS, Resolution, RollupScheme, targets

_MEAN, _RMS = ROW_COLUMNS.index("norm_mean"), ROW_COLUMNS.index("norm_rms")


@dataclass(frozen=True, slots=True)
class Span:
    """The requested steps first..last, in at most `points` buckets."""

    first: int
    last: int
    points: int

    @property
    def width(self) -> int:
        """Steps per bucket: the smallest power of two that needs no more buckets than `points`."""
        width = 1
        while self.last // width - self.first // width + 1 > self.points:
            width *= 2
        return width


@dataclass(frozen=True, slots=True)
class Pick:
    """One series by name, and where its values are."""

    name: str
    scheme: RollupScheme
    take: Callable[[Block], Column]


def pick(name: str, parameters: Mapping[str, int], eps: float) -> Pick:
    """The series called `name`. Raises a 422 problem that lists what exists.

    parameters: index by name. eps: for the targets of raw rows.
    """
    if name in SCALAR_COLUMNS:
        k = SCALAR_COLUMNS.index(name)
        return Pick(name, SCALARS, lambda block: block.column(k))
    column, separator, parameter = name.partition("/")
    if not separator or column not in ROLLED_ROW_COLUMNS:
        raise _unknown(name)
    if parameter not in parameters:
        close = ", ".join(list(parameters)[:3]) or "none"
        rule = "must end with the name of a parameter of this run"
        raise invalid("names", rule, f"series {name!r}: this run has no parameter {parameter!r}. It has {close}, ...")
    at, c = parameters[parameter], ROLLED_ROW_COLUMNS.index(column)
    return Pick(name, ROWS, lambda block: _row_column(block, at, c, eps))


def _unknown(name: str) -> ProblemError:
    return invalid(
        "names",
        "must be a known series",
        f"series {name!r} does not exist. There are {', '.join(SCALAR_COLUMNS)}, and per parameter "
        f"{', '.join(f'{column}/NAME' for column in ROLLED_ROW_COLUMNS)}.",
    )


def _row_column(block: Block, parameter: int, column: int, eps: float) -> Column:
    if not block.is_raw:
        return block.column(parameter * len(ROLLED_ROW_COLUMNS) + column)
    first = parameter * len(ROW_COLUMNS)
    if column < len(ROW_COLUMNS):
        return block.column(first + column)
    means, rms = block.mean[first + _MEAN :: block.width], block.mean[first + _RMS :: block.width]
    return Column.raw(targets(means, rms, eps))


def choose(scheme: RollupScheme, trimmed: Mapping[str, int], span: Span, whole: bool) -> Resolution:
    """The level to read: raw where it still covers the span, else the finest that does.

    A coarser one is chosen where the requested buckets are wider anyway and no bucket is cut at the ends: less to read.
    trimmed: per level the last step that may have been dropped. whole: the span holds all recorded steps.
    """
    covering = [level for level in scheme.levels if trimmed.get(level.name, -1) < span.first]
    if not covering:
        return scheme.levels[-1]
    if covering[0].width == 1 and not whole:
        return covering[0]
    return ([level for level in covering if level.width <= span.width] or covering[:1])[-1]


def bucket(level: Resolution, blocks: Sequence[Block], picks: Sequence[Pick], span: Span) -> dict[str, Series]:
    """One series per pick, from the blocks of `level` and those of finer levels that are not rolled up into it yet."""
    steps, times, counts = array("q"), array("d"), array("I")
    columns = {each.name: Column.empty() for each in picks}
    for block in blocks:
        steps.extend(block.steps)
        times.extend(block.times)
        counts.extend(block.counts)
        for each in picks:
            columns[each.name].extend(each.take(block))
    if any(map(int.__gt__, steps, steps[1:])):  # the run went back to a checkpoint
        order = sorted(range(len(steps)), key=steps.__getitem__)
        steps, times, counts = (
            array("q", map(steps.__getitem__, order)),
            array("d", map(times.__getitem__, order)),
            array("I", map(counts.__getitem__, order)),
        )
        columns = {name: column.take(order) for name, column in columns.items()}

    # Of a rolled level, the bucket that `first` lies in belongs to the answer.
    start = bisect_left(steps, span.first // level.width * level.width)
    stop = bisect_right(steps, span.last)
    width = max(span.width, level.width)
    places = [(start + i, start + j) for i, j in bucket_ranges(steps[start:stop], width)]
    firsts = [steps[i] for i, _ in places]
    numbers = [sum(counts[i:j]) for i, j in places]
    moments = [times[i] for i, _ in places]
    answer = {}
    for name, column in columns.items():
        merged = [column.merge(i, j) for i, j in places]
        low, mean, high = ([_shown(each[at]) for each in merged] for at in range(3))
        answer[name] = Series(firsts, numbers, low, mean, high, moments)
    return answer


def _shown(value: float) -> float | None:
    return None if math.isnan(value) else value
