"""Copies a run's whole history from Redis into a file: each recorded step once, at the finest resolution available.

The copy is quick, so that a run that trains meanwhile drops nothing that is yet to be read; the export made of it may
take longer. Each level is copied after the finer one, because an entry is in the coarser level before it is dropped. A
run that drops entries before they are copied raises `SnapshotOverrun`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.timeseries.blocks import Block
from steadynorm_server.timeseries.rollups import LevelState, Resolution, RollupScheme, read_block

_FEW_BYTES, _MANY_BYTES = 2**20, 4 * 2**20
"""Of one reply of Redis: the next request is for more entries below, for fewer coarser."""


class SnapshotOverrun(Exception):
    """The run dropped entries before they were copied. Copy again."""


@dataclass(slots=True)
class LevelSnapshot:
    """One level's entries in the file, in the order of arrival."""

    level: Resolution
    file: BinaryIO
    rolled: int  # id of the last entry that the coarser level contains
    entries: list[tuple[int, int, int]] = field(default_factory=list)  # id, offset in the file, bytes
    logged: int = 0  # columns of the run's logged scalars
    trimmed: int = -1  # last step that may have been dropped
    begin: int = 0  # this level provides the steps begin..end-1
    end: int | None = None

    def blocks(self) -> Iterator[tuple[Block, NDArray[np.bool_]]]:
        """The blocks that this level provides steps of, each with which of its records it owns: bool [records]."""
        for entry, place, size in self.entries:
            self.file.seek(place)
            block = read_block(self.level, self.file.read(size), self.logged)
            steps = np.frombuffer(block.steps, np.int64)
            # What no coarser level contains is provided here, however old: a run went back to a checkpoint.
            owned = np.ones(len(steps), np.bool_) if entry > self.rolled else steps >= self.begin
            if self.end is not None:
                owned &= steps < self.end
            if owned.any():
                yield block, owned


async def copy(repository: RunRepository, run: RunRecord, scheme: RollupScheme, file: BinaryIO) -> list[LevelSnapshot]:
    """Append the entries that `scheme` had when `run` was read to `file`. Returns its levels, coarsest first.

    Raises SnapshotOverrun when the run dropped some of them first.
    """
    parts = []
    for level in scheme.levels:
        state = run.levels.get(level.name, LevelState())
        top = scheme.coarser(level) is None
        part = LevelSnapshot(level, file, state.next - 1 if top else state.rolled, logged=len(run.logged.columns))
        await _copy_level(repository, RunKeys(run.run_id), part, state.next - 1)
        parts.append(part)
    begins = serves_from(scheme, [part.trimmed for part in parts])
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
            # Read after the page: it includes everything that was trimmed before the page was read.
            (trimmed,) = await repository.redis.fields([(keys.run, f"trimmed:{part.level.name}")])
            part.trimmed = -1 if trimmed is None else int(trimmed)
            after = page[0][0] - 1
            if after > part.rolled:
                raise SnapshotOverrun  # entries were dropped after the coarser level's state was read
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


def serves_from(scheme: RollupScheme, trimmed: Sequence[int]) -> list[int]:
    """Per level, finest first, the first step that it provides; it ends where the finer one begins.

    trimmed: per level the last step that may have been dropped. A level begins where a bucket of the next one does, so
    that no bucket is cut.
    """
    begins: list[int] = []
    for level, dropped in zip(scheme.levels, trimmed, strict=True):
        coarser = scheme.coarser(level)
        if coarser is None:
            begins.append(0)
            break
        begin = min(dropped + 1, begins[-1]) if begins else dropped + 1
        begin = -(-begin // coarser.width) * coarser.width
        begins = [*(max(begin, finer) for finer in begins), begin]
    return begins
