"""A run's whole history, copied from the store into a file: each recorded step once, as fine as it is still known.

The copy is quick, so that a run which goes on training does not drop meanwhile what is about to be read; what is made
of it may take its time. Each level of a ladder is copied after the finer one, because what leaves a level is in the
coarser one before it leaves. Where a run is faster than the copy, `OvertakenError` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.timeseries.blocks import Block, unpack
from steadynorm_server.timeseries.rollups import LevelState, Resolution, RollupScheme

__all__ = ["LevelSnapshot", "SnapshotOverrun", "copy", "serves_from"]

_FEW_BYTES, _MANY_BYTES = 2**20, 4 * 2**20
"""Of one reply of the store: the next one asks for more entries below, for fewer above."""


class SnapshotOverrun(Exception):
    """The run dropped entries before they were copied. Copy again."""


@dataclass(slots=True)
class LevelSnapshot:
    """One level's entries in the file, in the order of arrival."""

    level: Resolution
    file: BinaryIO
    rolled: int  # id of the last entry that the coarser level contains
    entries: list[tuple[int, int, int]] = field(default_factory=list)  # id, place in the file, bytes
    trimmed: int = -1  # last step that may have been dropped
    begin: int = 0  # steps begin..end-1 are this level's to tell
    end: int | None = None

    def blocks(self) -> Iterator[tuple[Block, NDArray[np.bool_]]]:
        """The blocks in which something is this level's to tell, each with which of its records are: bool [records]."""
        for entry, place, size in self.entries:
            self.file.seek(place)
            block = unpack(self.file.read(size))
            steps = np.frombuffer(block.steps, np.int64)
            # What no coarser level contains is told here, however old: a run went back to a checkpoint.
            mine = np.ones(len(steps), np.bool_) if entry > self.rolled else steps >= self.begin
            if self.end is not None:
                mine &= steps < self.end
            if mine.any():
                yield block, mine


async def copy(repository: RunRepository, run: RunRecord, ladder: RollupScheme, file: BinaryIO) -> list[LevelSnapshot]:
    """Append the entries that `ladder` had when `run` was read to `file`. Returns its levels, coarsest first.

    Raises OvertakenError when the run dropped some of them first.
    """
    parts = []
    for level in ladder.levels:
        tail = run.tails.get(level.name, LevelState())
        top = ladder.above(level) is None
        part = LevelSnapshot(level, file, tail.next - 1 if top else tail.rolled)
        await _copy_level(repository, RunKeys(run.run_id), part, tail.next - 1)
        parts.append(part)
    begins = serves_from(ladder, [part.trimmed for part in parts])
    for at, part in enumerate(parts):
        part.begin = begins[at]
        part.end = begins[at - 1] if at else None
    return parts[::-1]


async def _copy_level(repository: RunRepository, keys: RunKeys, part: LevelSnapshot, last: int) -> None:
    count, after = 16, 0
    while after < last:
        page = await repository.redis.entries_between(keys.history(part.level.name), after, last, count)
        if not page:
            raise SnapshotOverrun
        if after == 0:
            # Read after the page: what is trimmed by now is missing from this level, or there all the same.
            (trimmed,) = await repository.redis.fields([(keys.run, f"trimmed:{part.level.name}")])
            part.trimmed = -1 if trimmed is None else int(trimmed)
            after = page[0][0] - 1
            if after > part.rolled:
                raise SnapshotOverrun  # went with what was not in the coarser level when that was looked at
        size = 0
        for entry, fields in page:
            if entry != after + 1:
                raise SnapshotOverrun
            data = fields[b"block"]
            part.entries.append((entry, part.file.tell(), len(data)))
            part.file.write(data)
            after, size = entry, size + len(data)
        if size < _FEW_BYTES:
            count = min(2 * count, 4096)
        elif size > _MANY_BYTES:
            count = max(1, count // 2)


def serves_from(ladder: RollupScheme, trimmed: Sequence[int]) -> list[int]:
    """Per level, finest first, the first step that it tells; it goes on to where the finer one begins.

    trimmed: per level the last step that may have been dropped. A level begins where a bucket of the next one does, so
    that no bucket is told in part.
    """
    begins: list[int] = []
    for level, dropped in zip(ladder.levels, trimmed, strict=True):
        above = ladder.above(level)
        if above is None:
            begins.append(0)
            break
        begin = min(dropped + 1, begins[-1]) if begins else dropped + 1
        begin = -(-begin // above.width) * above.width
        begins = [*(max(begin, finer) for finer in begins), begin]
    return begins
