"""A run's history in bounded space: raw records of the recent past, min/mean/max buckets of everything before.

Step scalars and per-parameter rows each have a scheme of levels. New records are appended to the raw level; whenever
a tile of steps is complete, its entries are rolled up into one entry of the next level, and so on. Each level has a
budget of bytes and drops its oldest entries, but never one that is not yet in the next level, so only resolution is
lost until the coarsest level is full.

Sizes for 300 parameters (bytes per step, and steps that fit into the budget):
    scalars  raw   12·4+16          =   64    2 MiB     32 k
             16    (12·16+20)/16    =   13    4 MiB    310 k
             256   (12·16+20)/256   =    0.8  4 MiB    5.1 M
             4096  (12·16+20)/4096  =    0.05 4 MiB     81 M
    rows     raw   300·5·4+16       = 6016    8 MiB    1394 rows (14 k steps with a row every 10)
             256   300·6·12/256     =   84   14 MiB    174 k
             4096  300·6·12/4096    =    5.3 14 MiB    2.8 M
             65536 300·6·12/65536   =    0.3  8 MiB     25 M
A run of a million steps takes 2 + 4 + 0.8 + 0.05 + 8 + 14 + 5 + 0.3 = 34 MiB; a run of any length at most 58 MiB. The
rows of 3,000 parameters take ten times as much: the coarsest level holds 2.5 million steps of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec
import numpy as np

from steadynorm_contract.telemetry import ROW_COLUMNS, SCALAR_COLUMNS
from steadynorm_server.timeseries.blocks import Block, downsample, pack, split

_MIB = 1024 * 1024

ROLLED_ROW_COLUMNS = (*ROW_COLUMNS, "target")
"""Per parameter, in rolled-up rows. A bucket's smallest target does not follow from its smallest mean and RMS norm, so
it is a column of its own there; raw rows do without it. Stored columns are only ever appended to."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """One level. Entries never cross a multiple of `tile` steps; a complete tile is rolled up into the next level."""

    name: str
    width: int
    tile: int
    budget: int


@dataclass(frozen=True, slots=True)
class RollupScheme:
    """The levels of one kind of record, finest first."""

    levels: tuple[Resolution, ...]
    columns: tuple[str, ...]

    def coarser(self, level: Resolution) -> Resolution | None:
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
    """Fill state of a level, stored in the run's hash; blocks.lua and trim.lua rely on the order of the first two."""

    next: int = 1  # id of the next entry
    rolled: int = 0  # id of the last entry that the next level contains
    tile: int | None = None  # of the entry after it; entries of the following tile may wait with it
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
    """Redis does not hold the entries that the level states describe."""


class _Planner:
    def __init__(
        self, scheme: RollupScheme, states: Levels, read: Read, prepare: Callable[[Block], Block], delay: float
    ) -> None:
        self.appends: list[Append] = []
        self._scheme, self._states, self._read, self._prepare, self._delay = scheme, states, read, prepare, delay
        for level in scheme.levels:
            states.setdefault(level.name, LevelState())
        self._stored = {level.name: states[level.name].next - 1 for level in scheme.levels}
        self._fresh: dict[str, list[Block]] = {level.name: [] for level in scheme.levels}  # in this plan only, so far

    async def add(self, level: Resolution, blocks: Sequence[Block]) -> None:
        state, coarser = self._states[level.name], self._scheme.coarser(level)
        for block in blocks:
            tile = block.steps[0] // level.tile
            if coarser and state.tile is not None:
                # Rolled up early when it grows too large, so that the oldest entries can be dropped.
                large = state.size + state.newer > level.budget // 2
                if large or self._is_due(level, state.tile, block.steps[0]):
                    for waiting in await self._take_waiting(level, remaining=None if large else tile):
                        await self.add(coarser, [downsample(waiting, coarser.width)])
            data = pack(block)
            last = max(block.steps) // level.width * level.width + level.width - 1
            rolled = state.rolled if coarser else state.next - 1
            self.appends.append(Append(level, state.next, min(block.steps), last, data, rolled))
            state.next += 1
            if state.tile is None:
                state.tile = tile
            if tile == state.tile:
                state.size += len(data)
            else:
                state.newer += len(data)
            self._fresh[level.name].append(block)

    def _is_due(self, level: Resolution, waiting: int, step: int) -> bool:
        """Whether the waiting tile is rolled up now: after `delay` of the next one, or once the run is beyond it."""
        tile, within = divmod(step, level.tile)
        return tile != waiting and not (tile == waiting + 1 and within < self._delay * level.tile)

    async def _take_waiting(self, level: Resolution, remaining: int | None) -> list[list[Block]]:
        """The entries not rolled up yet, by tiles, except those of tile `remaining`; counts them as rolled up."""
        state, fresh = self._states[level.name], self._fresh[level.name]
        number = max(0, self._stored[level.name] - state.rolled)
        stored = await self._read(level, state.rolled) if number else []
        if len(stored) != number:
            raise HistoryMovedError(f"{level.name} holds {len(stored)} entries after {state.rolled}, not {number}")
        tiles = [list(part) for _, part in groupby([*stored, *fresh], lambda block: block.steps[0] // level.tile)]
        left = tiles.pop() if tiles[-1][0].steps[0] // level.tile == remaining else []
        state.rolled = state.next - 1 - len(left)
        self._fresh[level.name] = fresh[max(0, len(fresh) - len(left)) :] if left else []
        state.tile, state.size, state.newer = (remaining, state.newer, 0) if left else (None, 0, 0)
        return [[self._prepare(block) for block in part] if level.width == 1 else part for part in tiles]


async def plan(
    scheme: RollupScheme, states: Levels, block: Block, read: Read, eps: float = 0.0, delay: float = 0.0
) -> list[Append]:
    """What to append so that `block` (raw) becomes part of the history; updates `states`.

    read: fetches the entries of a level that are not rolled up yet. eps: the setting, for the targets of rows.
    delay: a complete tile waits for this share, 0 <= delay < 1, of the next one: with a delay of
    its own for each, runs that started together are not all rolled up in the same second.

    Raises HistoryMovedError when `states` do not match what is read.
    """
    prepare = (lambda raw: with_targets(raw, eps)) if scheme is ROWS else _unchanged
    planner = _Planner(scheme, states, read, prepare, delay)
    finest = scheme.levels[0]
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
    with np.errstate(invalid="ignore", divide="ignore"):  # in places that np.where discards
        found = np.where(root > 0, mean / (root + eps), 1.0)
    return array("f", found.astype(np.float32).tobytes())
