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

import numpy as np
from numpy.typing import NDArray

_HEADER = struct.Struct("<BxxxII")  # kind, records, K
_RAW, _UNIFORM, _NON_UNIFORM = 0, 1, 2  # uniform: all values of all steps were finite, so no counts are stored


Floats = NDArray[np.float32]
Starts = Sequence[int] | NDArray[np.intp]
Values = tuple[Floats, Floats, Floats, NDArray[np.uint32]]
"""Minimum, mean, maximum and number of finite values, each [records, values]. Where the number is 0 they are NaN."""


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

    def values(self, columns: NDArray[np.int64] | slice = slice(None)) -> Values:
        """All values, or those of some columns."""
        shape = (len(self.steps), self.width)
        parts = (self.low, self.mean, self.high)
        low, mean, high = (np.frombuffer(part, np.float32).reshape(shape)[:, columns] for part in parts)
        if self.finite is None:
            return raw_values(mean)
        return low, mean, high, np.frombuffer(self.finite, np.uint32).reshape(shape)[:, columns]

    def part(self, start: int, stop: int) -> Block:
        """Records start..stop-1 of a raw block."""
        values = self.mean[start * self.width : stop * self.width]
        return Block.raw(self.width, self.steps[start:stop], self.times[start:stop], values)

    def widened(self, width: int) -> Block:
        """At least `width` values a record: NaN in the columns that this block was stored without."""
        if (more := width - self.width) <= 0:
            return self

        def wide(values: array[float]) -> array[float]:
            table = np.frombuffer(values, np.float32).reshape(-1, self.width)
            return array("f", np.pad(table, ((0, 0), (0, more)), constant_values=np.nan).tobytes())

        mean = wide(self.mean)
        if self.finite is None:
            return Block(width, self.steps, self.times, self.counts, mean, mean, mean)
        finite = np.pad(np.frombuffer(self.finite, np.uint32).reshape(-1, self.width), ((0, 0), (0, more)))
        return Block(
            width, self.steps, self.times, self.counts, wide(self.low), mean, wide(self.high),
            array("I", finite.tobytes()),
        )  # fmt: skip


def raw_values(values: Floats) -> Values:
    """From one value per step; NaN and infinities count as not finite."""
    good = np.isfinite(values)
    clean = np.where(good, values, np.float32(math.nan))
    return clean, clean, clean, good.astype(np.uint32)


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
    if min(block.steps) // tile == max(block.steps) // tile:
        return [block]
    if len(cuts := list(bucket_ranges(block.steps, tile))) == 1:
        return [block]
    return [block.part(start, stop) for start, stop in cuts]


def downsample(blocks: Sequence[Block], width: int) -> Block:
    """Blocks of one kind, in the order of arrival, as one block of buckets of `width` steps.

    A bucket that was left and entered again (a run that went back to a checkpoint) becomes two records; readers merge.
    """
    whole = blocks[0] if len(blocks) == 1 else joined(blocks)
    places = list(bucket_ranges(whole.steps, width))
    firsts = [min(range(start, stop), key=whole.steps.__getitem__) for start, stop in places]
    low, mean, high, finite = merge(whole.values(), [start for start, _ in places])
    return Block(
        whole.width,
        array("q", map(whole.steps.__getitem__, firsts)),
        array("d", map(whole.times.__getitem__, firsts)),
        array("I", (sum(whole.counts[start:stop]) for start, stop in places)),
        array("f", low.tobytes()),
        array("f", mean.astype(np.float32).tobytes()),
        array("f", high.tobytes()),
        array("I", finite.tobytes()),
    )


def merge(values: Values, starts: Starts) -> tuple[Floats, NDArray[np.float64], Floats, NDArray[np.uint32]]:
    """The values of the records from each start to the next, as one: [starts, values]."""
    low, mean, high, finite = values
    numbers = np.add.reduceat(finite, starts, axis=0, dtype=np.uint32)
    totals = np.add.reduceat(np.where(finite > 0, mean.astype(np.float64) * finite, 0.0), starts, axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing finite in a bucket is NaN
        return np.fmin.reduceat(low, starts, axis=0), totals / numbers, np.fmax.reduceat(high, starts, axis=0), numbers


def joined(blocks: Sequence[Block]) -> Block:
    """Blocks of one kind, at least one, as one block."""
    mean = array("f")
    whole = Block(blocks[0].width, array("q"), array("d"), array("I"), mean, mean, mean)
    names = ["steps", "times", "counts", "mean"]
    if not blocks[0].is_raw:
        whole.low, whole.high, whole.finite = array("f"), array("f"), array("I")
        names += ["low", "high", "finite"]
    for name in names:
        values = getattr(whole, name)
        for block in blocks:
            values.extend(getattr(block, name))
    return whole


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


def block_width(data: bytes) -> int:
    """Values a record of a packed block."""
    width: int = _HEADER.unpack_from(data)[2]
    return width


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
