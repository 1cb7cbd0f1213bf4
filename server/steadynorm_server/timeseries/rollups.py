"""A run's history in bounded space: raw records of the recent past, min/mean/max buckets of everything before.

Step scalars and per-parameter rows each have a ladder of levels. New records are appended to the raw level; whenever
a tile of steps is complete, its entries are rolled into one entry of the next level, and so on upwards. Each level
keeps a budget of bytes and drops its oldest entries, but never one that is not yet in the next level, so nothing but
resolution is lost until the top level is full.

What it takes, for 300 parameters (bytes a step, and steps that fit into the budget):
    scalars  raw   12·4+16          =   64    2 MiB     32 k
             16    (12·16+20)/16    =   13    4 MiB    310 k
             256   (12·16+20)/256   =    0.8  4 MiB    5.1 M
             4096  (12·16+20)/4096  =    0.05 4 MiB     81 M
    rows     raw   300·5·4+16       = 6016    8 MiB    1394 rows (14 k steps with a row every 10)
             256   300·6·12/256     =   84   14 MiB    174 k
             4096  300·6·12/4096    =    5.3 14 MiB    2.8 M
             65536 300·6·12/65536   =    0.3  8 MiB     25 M
A run of a million steps holds 2 + 4 + 0.8 + 0.05 + 8 + 14 + 5 + 0.3 = 34 MiB; a run of any length at most 58 MiB. The
rows of 3,000 parameters take ten times as much: the coarsest level has room for 2.5 million steps of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec
import numpy as np

from steadynorm_contract.telemetry import ROW_COLUMNS, SCALAR_COLUMNS
from steadynorm_server.timeseries.blocks import Block, pack, roll, split

__all__ = [
    "ROLLED_ROW_COLUMNS",
    "ROWS",
    "SCALARS",
    "Append",
    "HistoryMovedError",
    "LevelState",
    "Levels",
    "Resolution",
    "RollupScheme",
    "plan",
    "with_targets",
]

_MIB = 1024 * 1024

ROLLED_ROW_COLUMNS = (*ROW_COLUMNS, "target")
"""Per parameter, in rolled rows. A bucket's smallest target does not follow from its smallest mean and RMS norm, so
it is rolled as a column of its own; raw rows do without. Stored columns are only ever appended to."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """One resolution. Entries never cross a multiple of `tile` steps; a complete tile is rolled into the next level."""

    name: str
    width: int
    tile: int
    budget: int


@dataclass(frozen=True, slots=True)
class RollupScheme:
    """The levels of one kind of record, finest first."""

    levels: tuple[Resolution, ...]
    columns: tuple[str, ...]

    def above(self, level: Resolution) -> Resolution | None:
        """The next coarser level."""
        at = self.levels.index(level) + 1
        return self.levels[at] if at < len(self.levels) else None


SCALARS = RollupScheme(
    (
        Resolution("scalars1", 1, 256, 2 * _MIB),
        Resolution("scalars16", 16, 4096, 4 * _MIB),
        Resolution("scalars256", 256, 65_536, 4 * _MIB),
        Resolution("scalars4096", 4096, 65_536, 4 * _MIB),
    ),
    SCALAR_COLUMNS,
)

ROWS = RollupScheme(
    (
        Resolution("rows1", 1, 256, 8 * _MIB),
        Resolution("rows256", 256, 4096, 14 * _MIB),
        Resolution("rows4096", 4096, 65_536, 14 * _MIB),
        Resolution("rows65536", 65_536, 65_536, 8 * _MIB),
    ),
    ROW_COLUMNS,
)


class LevelState(msgspec.Struct, array_like=True):
    """Where a level stands. Kept in the run's hash; the read script knows that `rolled` is the second item."""

    next: int = 1  # id of the entry to come
    rolled: int = 0  # id of the last entry that the next level contains
    tile: int | None = None  # of the entry after it; others may wait with it, of the tile that follows
    size: int = 0  # bytes of those of `tile`
    newer: int = 0  # bytes of the others


Levels = dict[str, LevelState]
"""By the level's name."""


@dataclass(frozen=True, slots=True)
class Append:
    """One entry to store. `first` and `last`: the steps that it may hold."""

    level: Resolution
    id: int
    first: int
    last: int
    data: bytes
    rolled: int  # last entry of the level that the next one contains: what may be dropped


Read = Callable[[Resolution, int], Awaitable[list[Block]]]
"""The entries of a level after an id."""


class HistoryMovedError(Exception):
    """The store does not hold the entries that the tails speak of: they are not, or no more, of this run."""


class _Planner:
    def __init__(
        self, ladder: RollupScheme, tails: Levels, read: Read, prepare: Callable[[Block], Block], delay: float
    ) -> None:
        self.appends: list[Append] = []
        self._ladder, self._tails, self._read, self._prepare, self._delay = ladder, tails, read, prepare, delay
        for level in ladder.levels:
            tails.setdefault(level.name, LevelState())
        self._stored = {level.name: tails[level.name].next - 1 for level in ladder.levels}
        self._fresh: dict[str, list[Block]] = {level.name: [] for level in ladder.levels}  # only in this plan yet

    async def add(self, level: Resolution, blocks: Sequence[Block]) -> None:
        tail, above = self._tails[level.name], self._ladder.above(level)
        for block in blocks:
            tile = block.steps[0] // level.tile
            if above and tail.tile is not None:
                # Rolled early when it grows too large: the oldest entries must be free to go.
                large = tail.size + tail.newer > level.budget // 2
                if large or self._is_due(level, tail.tile, block.steps[0]):
                    for waiting in await self._take_waiting(level, kept=None if large else tile):
                        await self.add(above, [roll(waiting, above.width)])
            data = pack(block)
            last = max(block.steps) // level.width * level.width + level.width - 1
            rolled = tail.rolled if above else tail.next - 1
            self.appends.append(Append(level, tail.next, min(block.steps), last, data, rolled))
            tail.next += 1
            if tail.tile is None:
                tail.tile = tile
            if tile == tail.tile:
                tail.size += len(data)
            else:
                tail.newer += len(data)
            self._fresh[level.name].append(block)

    def _is_due(self, level: Resolution, waiting: int, step: int) -> bool:
        """Whether the tile that waits is rolled now: once `delay` of the next one has passed, at once if it is left."""
        tile, within = divmod(step, level.tile)
        return tile != waiting and not (tile == waiting + 1 and within < self._delay * level.tile)

    async def _take_waiting(self, level: Resolution, kept: int | None) -> list[list[Block]]:
        """What is not rolled yet, by tiles, without what is of tile `kept` at its end. Counts as rolled from here."""
        tail, fresh = self._tails[level.name], self._fresh[level.name]
        number = max(0, self._stored[level.name] - tail.rolled)
        stored = await self._read(level, tail.rolled) if number else []
        if len(stored) != number:
            raise HistoryMovedError(f"{level.name} holds {len(stored)} entries after {tail.rolled}, not {number}")
        tiles = [list(part) for _, part in groupby([*stored, *fresh], lambda block: block.steps[0] // level.tile)]
        stays = tiles.pop() if tiles[-1][0].steps[0] // level.tile == kept else []
        tail.rolled = tail.next - 1 - len(stays)
        self._fresh[level.name] = fresh[max(0, len(fresh) - len(stays)) :] if stays else []
        tail.tile, tail.size, tail.newer = (kept, tail.newer, 0) if stays else (None, 0, 0)
        return [[self._prepare(block) for block in part] if level.width == 1 else part for part in tiles]


async def plan(
    ladder: RollupScheme, tails: Levels, block: Block, read: Read, eps: float = 0.0, delay: float = 0.0
) -> list[Append]:
    """What to append so that `block` (raw) is part of the history. Moves `tails` on.

    read: fetches the entries of a level that are not rolled yet. eps: the setting, for the targets of rolled rows.
    delay: a complete tile waits for this share, 0 <= delay < 1, of the next one: runs that began together and keep pace
    are not all rolled in the same second where each has a delay of its own.

    Raises HistoryMovedError when `tails` do not belong to what is read.
    """
    prepare = (lambda raw: with_targets(raw, eps)) if ladder is ROWS else _unchanged
    planner = _Planner(ladder, tails, read, prepare, delay)
    finest = ladder.levels[0]
    await planner.add(finest, split(block, finest.tile))
    return planner.appends


def _unchanged(block: Block) -> Block:
    return block


def with_targets(rows: Block, eps: float) -> Block:
    """Raw rows [records, parameters, ROW_COLUMNS] with the target as one more column."""
    wide, narrow = len(ROLLED_ROW_COLUMNS), len(ROW_COLUMNS)
    size = len(rows.mean) // narrow
    values = array("f", bytes(4 * size * wide))
    for column in range(narrow):
        values[column::wide] = rows.mean[column::narrow]
    values[narrow::wide] = targets(
        rows.mean[ROW_COLUMNS.index("norm_mean") :: narrow], rows.mean[ROW_COLUMNS.index("norm_rms") :: narrow], eps
    )
    return Block.raw(rows.width // narrow * wide, rows.steps, rows.times, values)


def targets(means: Sequence[float], rms: Sequence[float], eps: float) -> array[float]:
    """Target of each pair of mean and RMS norm: `rule.target`, for many at once."""
    mean, root = np.asarray(means, np.float64), np.asarray(rms, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # of those that the condition leaves out
        found = np.where(root > 0, mean / (root + eps), 1.0)
    return array("f", found.astype(np.float32).tobytes())
