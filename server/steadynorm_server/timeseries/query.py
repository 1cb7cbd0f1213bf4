"""Series for charts from stored blocks: a bounded number of buckets of equal width that retain all extremes.

The width of a bucket is a power of two and buckets begin at its multiples. So they nest in the stored ones, and the
chart of a growing run keeps its buckets until they double. A bucket's `step` is the first step recorded in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steadynorm_contract.series import Series
from steadynorm_contract.telemetry import ROW_COLUMNS, SCALAR_COLUMNS
from steadynorm_server.errors import ProblemError, invalid
from steadynorm_server.timeseries.blocks import Block, Floats, Values, joined, merge, raw_values
from steadynorm_server.timeseries.rollups import (
    LOGGED,
    ROLLED_ROW_COLUMNS,
    ROWS,
    SCALARS,
    Resolution,
    RollupScheme,
    targets,
)

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
    column: int
    parameter: int = 0  # index of the rows' parameter
    eps: float = 0.0  # the setting, for the targets of raw rows


def pick(name: str, parameters: Mapping[str, int], eps: float, logged: Mapping[str, int]) -> Pick:
    """The series called `name`. Raises a 422 problem that lists what exists.

    parameters: index by name. eps: for the targets of raw rows. logged: column by name of what the loop logs.
    """
    if name in SCALAR_COLUMNS:
        return Pick(name, SCALARS, SCALAR_COLUMNS.index(name))
    if name in logged:
        return Pick(name, LOGGED, logged[name])
    column, separator, parameter = name.partition("/")
    if not separator or column not in ROLLED_ROW_COLUMNS:
        raise _unknown(name, logged)
    if parameter not in parameters:
        close = ", ".join(list(parameters)[:3]) or "none"
        rule = "must end with the name of a parameter of this run"
        own = f" It logs {', '.join(list(logged)[:10])}." if logged else ""
        message = f"series {name!r}: this run has no parameter {parameter!r}. It has {close}, ...{own}"
        raise invalid("names", rule, message)
    return Pick(name, ROWS, ROLLED_ROW_COLUMNS.index(column), parameters[parameter], eps)


def _unknown(name: str, logged: Mapping[str, int]) -> ProblemError:
    own = f" This run logs {', '.join(list(logged)[:10])}." if logged else ""
    return invalid(
        "names",
        "must be a known series",
        f"series {name!r} does not exist. There are {', '.join(SCALAR_COLUMNS)}, and per parameter "
        f"{', '.join(f'{column}/NAME' for column in ROLLED_ROW_COLUMNS)}.{own}",
    )


def _values(block: Block, picks: Sequence[Pick]) -> Values:
    """The values of each pick, all of one scheme: [records, picks]."""
    wide = len(ROW_COLUMNS) if block.is_raw else len(ROLLED_ROW_COLUMNS)
    first, column = np.array([each.parameter for each in picks]) * wide, np.array([each.column for each in picks])
    if picks[0].scheme is not ROWS or column.max() < wide:
        return block.values(first + column)
    rows = np.frombuffer(block.mean, np.float32).reshape(-1, block.width)
    found = targets(rows[:, first + _MEAN], rows[:, first + _RMS], picks[0].eps)
    return raw_values(np.where(column < wide, rows[:, first + np.minimum(column, wide - 1)], found))


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
    kinds = [[block for block in blocks if block.is_raw is raw] for raw in (False, True)]
    wholes = [joined(kind) for kind in kinds if kind]
    if not wholes:
        return {each.name: Series([], [], [], [], []) for each in picks}
    steps, times, counts = (
        np.concatenate([np.frombuffer(getattr(whole, name), dtype) for whole in wholes])
        for name, dtype in (("steps", np.int64), ("times", np.float64), ("counts", np.uint32))
    )
    # Sorted: a run may have gone back to a checkpoint. Of a rolled level, `first`'s whole bucket belongs to the answer.
    order = np.argsort(steps, kind="stable")
    start = np.searchsorted(steps, span.first // level.width * level.width, "left", order)
    order = order[start : np.searchsorted(steps, span.last, "right", order)]
    if not order.size:
        return {each.name: Series([], [], [], [], []) for each in picks}
    starts = np.flatnonzero(np.diff(steps[order] // max(span.width, level.width), prepend=-1))
    firsts, moments = steps[order[starts]].tolist(), times[order[starts]].tolist()
    numbers = np.add.reduceat(counts[order], starts).tolist()
    parts = zip(*(_values(whole, picks) for whole in wholes), strict=True)
    low, mean, high, finite = (np.concatenate(part)[order] for part in parts)
    low, means, high, found = merge((low, mean, high, finite), starts)
    if picks[0].scheme is LOGGED:  # seldom ones have no value in most buckets, and a line that ends at each is none
        return {each.name: _without_gaps(low[:, at], means[:, at], high[:, at], found[:, at], firsts, moments)
                for at, each in enumerate(picks)}  # fmt: skip
    return {
        each.name: Series(firsts, numbers, _shown(low[:, at]), _shown(means[:, at]), _shown(high[:, at]), moments)
        for at, each in enumerate(picks)
    }


def _without_gaps(
    low: Floats,
    mean: NDArray[np.float64],
    high: Floats,
    found: NDArray[np.uint32],
    steps: Sequence[int],
    times: Sequence[float],
) -> Series:
    """The buckets that hold a value; `count` is how many."""
    at = np.flatnonzero(found)
    firsts, moments = [steps[place] for place in at.tolist()], [times[place] for place in at.tolist()]
    return Series(firsts, found[at].tolist(), low[at].tolist(), mean[at].tolist(), high[at].tolist(), moments)


def _shown(values: Floats | NDArray[np.float64]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
