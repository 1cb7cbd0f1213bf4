"""Blocks of history: consecutive records of K float32 values, raw or as min/mean/max buckets, packed for Redis.

A raw block has one record per step. A downsampled block has one per bucket of `width` steps: how many steps were
recorded in it, and per value the minimum, mean and maximum of the finite ones and their number. All arrays are
row-major [records, K], so one value's history is the slice `[k::K]`, without Python objects for the others.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import mul

import numpy as np
from numpy.typing import NDArray

_HEADER = struct.Struct("<BxxxII")  # kind, records, K
_RAW, _UNIFORM, _NON_UNIFORM = 0, 1, 2  # uniform: all values of all steps were finite, so no counts are stored


Floats = NDArray[np.float32]


@dataclass(slots=True)
class Column:
    """One value's history: parallel arrays, one entry per record. Where `finite` is 0 the others are NaN."""

    low: array[float]
    mean: array[float]
    high: array[float]
    finite: array[int]

    @staticmethod
    def empty() -> Column:
        """A column to extend."""
        return Column(array("f"), array("f"), array("f"), array("I"))

    @staticmethod
    def raw(values: array[float]) -> Column:
        """From one value per step; NaN and infinities count as not finite."""
        # A float64 sum of float32 cannot overflow, so it is finite exactly if all of them are.
        if math.isfinite(sum(values)):
            return Column(values, values, values, array("I", [1]) * len(values))
        finite = array("I", map(math.isfinite, values))
        clean = array("f", (value if good else math.nan for value, good in zip(values, finite, strict=True)))
        return Column(clean, clean, clean, finite)

    def extend(self, other: Column) -> None:
        """Append another column's records."""
        self.low.extend(other.low)
        self.mean.extend(other.mean)
        self.high.extend(other.high)
        self.finite.extend(other.finite)

    def take(self, order: Sequence[int]) -> Column:
        """The records at these indices, in this order."""
        return Column(
            array("f", map(self.low.__getitem__, order)),
            array("f", map(self.mean.__getitem__, order)),
            array("f", map(self.high.__getitem__, order)),
            array("I", map(self.finite.__getitem__, order)),
        )

    def merge(self, start: int, stop: int) -> tuple[float, float, float, int]:
        """Minimum, mean, maximum and number of the finite values of records start..stop-1."""
        if stop - start == 1:
            return self.low[start], self.mean[start], self.high[start], self.finite[start]
        finite = self.finite[start:stop]
        low, mean, high = self.low[start:stop], self.mean[start:stop], self.high[start:stop]
        if not min(finite):
            low, mean, high = (
                array("f", (value for value, number in zip(values, finite, strict=True) if number))
                for values in (low, mean, high)
            )
            finite = array("I", filter(None, finite))
            if not finite:
                return math.nan, math.nan, math.nan, 0
        number = sum(finite)
        return min(low), sum(map(mul, mean, finite)) / number, max(high), number


@dataclass(slots=True)
class Block:
    """Records of K values. In a raw block low, mean and high are one and the same array and `finite` is None."""

    width: int  # K
    steps: array[int]  # int64: the step, or the first step of the bucket
    times: array[float]  # float64 Unix seconds of that step
    counts: array[int]  # uint32: steps recorded in the bucket; 1 in a raw block
    low: array[float]
    mean: array[float]
    high: array[float]
    finite: array[int] | None = None

    @staticmethod
    def raw(width: int, steps: Iterable[int], times: Iterable[float], values: array[float]) -> Block:
        """One record per step."""
        numbers = array("q", steps)
        return Block(width, numbers, array("d", times), array("I", [1]) * len(numbers), values, values, values)

    @property
    def is_raw(self) -> bool:
        """Whether this holds single steps."""
        return self.finite is None

    def column(self, k: int) -> Column:
        """The history of value k."""
        if self.finite is None:
            return Column.raw(self.mean[k :: self.width])
        at = slice(k, None, self.width)
        return Column(self.low[at], self.mean[at], self.high[at], self.finite[at])

    def part(self, start: int, stop: int) -> Block:
        """Records start..stop-1 of a raw block."""
        values = self.mean[start * self.width : stop * self.width]
        return Block.raw(self.width, self.steps[start:stop], self.times[start:stop], values)


def bucket_ranges(steps: Sequence[int], width: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each stretch of records that fall into one bucket of `width` steps."""
    start = 0
    for _, members in groupby(steps, lambda step: step // width):
        stop = start + sum(1 for _ in members)
        yield start, stop
        start = stop


def split(block: Block, tile: int) -> list[Block]:
    """A raw block, cut so that no part crosses a multiple of `tile` steps."""
    if not block.steps:
        return []
    if len(cuts := list(bucket_ranges(block.steps, tile))) == 1:
        return [block]
    return [block.part(start, stop) for start, stop in cuts]


def downsample(blocks: Sequence[Block], width: int) -> Block:
    """Blocks of one kind, in the order of arrival, as one block of buckets of `width` steps.

    A bucket that was left and entered again (a run that went back to a checkpoint) becomes two records; readers merge.
    """
    whole = blocks[0] if len(blocks) == 1 else _joined(blocks)
    places = list(bucket_ranges(whole.steps, width))
    firsts = [min(range(start, stop), key=whole.steps.__getitem__) for start, stop in places]
    low, mean, high, finite = _merged(whole, [start for start, _ in places])
    return Block(
        whole.width,
        array("q", map(whole.steps.__getitem__, firsts)),
        array("d", map(whole.times.__getitem__, firsts)),
        array("I", (sum(whole.counts[start:stop]) for start, stop in places)),
        array("f", low.tobytes()),
        array("f", mean.tobytes()),
        array("f", high.tobytes()),
        array("I", finite.tobytes()),
    )


def _merged(block: Block, starts: Sequence[int]) -> tuple[Floats, Floats, Floats, NDArray[np.uint32]]:
    """Minimum, mean, maximum and number of the finite values from each start to the next: [starts, K]."""
    shape = (len(block.steps), block.width)
    low, mean, high = (np.frombuffer(part, np.float32).reshape(shape) for part in (block.low, block.mean, block.high))
    if block.finite is None:
        good = np.isfinite(mean)
        low = mean = high = np.where(good, mean, np.float32(math.nan))
        finite = good.astype(np.uint32)
    else:
        finite = np.frombuffer(block.finite, np.uint32).reshape(shape)
    numbers = np.add.reduceat(finite, starts, axis=0, dtype=np.uint32)
    totals = np.add.reduceat(np.where(finite > 0, mean.astype(np.float64) * finite, 0.0), starts, axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing finite in a bucket is NaN
        means = (totals / numbers).astype(np.float32)
        return np.fmin.reduceat(low, starts, axis=0), means, np.fmax.reduceat(high, starts, axis=0), numbers


def _joined(blocks: Sequence[Block]) -> Block:
    raw = blocks[0].is_raw
    mean = array("f")
    low, high = (mean, mean) if raw else (array("f"), array("f"))
    joined = Block(blocks[0].width, array("q"), array("d"), array("I"), low, mean, high, None if raw else array("I"))
    for block in blocks:
        joined.steps.extend(block.steps)
        joined.times.extend(block.times)
        joined.counts.extend(block.counts)
        joined.mean.extend(block.mean)
        if joined.finite is not None and block.finite is not None:
            joined.low.extend(block.low)
            joined.high.extend(block.high)
            joined.finite.extend(block.finite)
    return joined


def pack(block: Block) -> bytes:
    """The block as bytes, little-endian."""
    parts: list[array[int] | array[float]]
    if block.finite is None:
        kind, parts = _RAW, [block.steps, block.times, block.mean]
    else:
        kind, parts = _NON_UNIFORM, [block.steps, block.times, block.counts, block.low, block.mean, block.high]
        if block.finite == _uniform_counts(block.counts, block.width):
            kind = _UNIFORM
        else:
            parts.append(block.finite)
    return b"".join([_HEADER.pack(kind, len(block.steps), block.width), *(_bytes(part) for part in parts)])


def unpack(data: bytes) -> Block:
    """The reverse of `pack`. Raises ValueError for bytes that `pack` did not make."""
    kind, records, width = _HEADER.unpack_from(data)
    view = memoryview(data)[_HEADER.size :]

    def take(code: str, number: int) -> array[float]:
        nonlocal view
        values: array[float] = array(code)
        size = number * values.itemsize
        values.frombytes(view[:size])
        view = view[size:]
        if sys.byteorder == "big":
            values.byteswap()
        return values

    steps, times = take("q", records), take("d", records)
    size = records * width
    if kind == _RAW:
        block = Block.raw(width, (), (), take("f", size))
        block.steps, block.times, block.counts = steps, times, array("I", [1]) * records  # type: ignore[assignment] # "q"
    else:
        counts: array[int] = take("I", records)  # type: ignore[assignment] # "I" holds ints
        low, mean, high = take("f", size), take("f", size), take("f", size)
        finite: array[int] = _uniform_counts(counts, width) if kind == _UNIFORM else take("I", size)  # type: ignore[assignment] # "I"
        block = Block(width, steps, times, counts, low, mean, high, finite)  # type: ignore[arg-type] # steps are "q"
    if len(block.steps) != records or len(block.mean) != size:
        raise ValueError(f"a block of {records} records of {width} values is truncated: {len(data)} bytes")
    return block


def _uniform_counts(counts: array[int], width: int) -> array[int]:
    if len(counts) == 1:
        return counts * width
    return array("I", (count for count in counts for _ in range(width)))


def _bytes(values: array[float] | array[int]) -> bytes:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()
