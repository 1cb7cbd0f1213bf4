"""A run's history in bounded space: raw records of the recent past, min/mean/max buckets of everything before.

Step scalars and per-parameter rows each have a scheme of levels. New records are appended to the raw level; whenever
a tile of steps is complete, its entries are rolled up into one entry of the next level, and so on. Each level has a
budget of bytes and drops its oldest entries, but never one that is not yet in the next level, so only resolution is
lost until the coarsest level is full.

What a loop logs under names of its own has a third scheme, so that it takes nothing from the other two; its columns are
the run's names, in the order in which they came.

Sizes for 300 parameters (bytes per step, and steps that fit into the budget):
    scalars  raw   13·4+16          =   68    2 MiB     30 k
             16    (13·16+20)/16    =   14    4 MiB    290 k
             256   (13·16+20)/256   =    0.9  4 MiB    4.7 M
             4096  (13·16+20)/4096  =    0.06 4 MiB     75 M
    rows     raw   300·5·4+16       = 6016    8 MiB    1394 rows (14 k steps with a row every 10)
             256   300·6·12/256     =   84   14 MiB    174 k
             4096  300·6·12/4096    =    5.3 14 MiB    2.8 M
             65536 300·6·12/65536   =    0.3  8 MiB     25 M
    logged raw   64·4+16        =  272    1 MiB    3.8 k    with 64 names in every step
             16    (64·12+20)/16  =   49    1.5 MiB   32 k
             256   (64·12+20)/256 =    3    1.5 MiB  510 k
             4096  (64·12+20)/4096 =   0.2  2 MiB     10 M
A run of a million steps takes 2 + 4 + 0.8 + 0.05 + 8 + 14 + 5 + 0.3 = 34 MiB; a run of any length at most 58 MiB, and
64 MiB with logged scalars. The rows of 3,000 parameters take ten times as much: the coarsest level holds 2.5 million
steps of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec
import numpy as np

from steadynorm_contract.telemetry import ROW_COLUMNS, SCALAR_COLUMNS
from steadynorm_server.timeseries.blocks import Block, Floats, downsample, pack, split, unpack

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


LOGGED = RollupScheme(
    (
        Resolution("logged1", 1, 256, _MIB),
        Resolution("logged16", 16, 4096, 3 * _MIB // 2),
        Resolution("logged256", 256, 65_536, 3 * _MIB // 2),
        Resolution("logged4096", 4096, 65_536, 2 * _MIB),
    ),
    (),
)
"""Of each run, with the columns of its `LoggedScalars`."""

SCHEMES = (SCALARS, ROWS, LOGGED)


def read_block(level: Resolution, data: bytes, logged: int = 0) -> Block:
    """An entry of `level`. What was stored before a scalar was added has NaN for it.

    logged: columns of the run's logged scalars.
    """
    block = unpack(data)
    if level in LOGGED.levels:
        return block.widened(logged)
    return block.widened(len(SCALAR_COLUMNS)) if level in SCALARS.levels else block


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
    prepare = (lambda raw: with_targets(raw, eps)) if scheme is ROWS else lambda raw: raw
    planner = _Planner(scheme, states, read, prepare, delay)
    finest = scheme.levels[0]
    await planner.add(finest, split(block, finest.tile))
    return planner.appends


def with_targets(rows: Block, eps: float) -> Block:
    """Raw rows [records, parameters, ROW_COLUMNS] with the target as one more column."""
    values = np.frombuffer(rows.mean, np.float32).reshape(-1, len(ROW_COLUMNS))
    means, rms = (values[:, ROW_COLUMNS.index(name)] for name in ("norm_mean", "norm_rms"))
    wide = array("f", np.column_stack([values, targets(means, rms, eps)]).tobytes())
    return Block.raw(rows.width // len(ROW_COLUMNS) * len(ROLLED_ROW_COLUMNS), rows.steps, rows.times, wide)


def targets(means: Floats, rms: Floats, eps: float) -> Floats:
    """Target of each pair of mean and RMS norm: `rule.target`, for many at once."""
    root = rms.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # in places that np.where discards
        return np.where(root > 0, means / (root + eps), 1.0).astype(np.float32)
