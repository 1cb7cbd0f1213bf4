"""Runs in Redis: get, list, delete, and the index of all runs. Knows nothing of what layers above do with a run.

Methods raise ProblemErrors for what a client did wrong, and redis-py's errors when Redis is unavailable.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.telemetry import Parameter
from steadynorm_server.errors import RunNotFound
from steadynorm_server.redis.change_feed import ChangeNotifier
from steadynorm_server.redis.client import Timed
from steadynorm_server.redis.cluster import connect
from steadynorm_server.redis.keys import CHANGES, INDEX, SCAN_PATTERN, RunKeys, is_run_id, run_id_of
from steadynorm_server.runs.event_hints import DirtyRuns
from steadynorm_server.runs.events import MAX_EVENTS
from steadynorm_server.runs.parameter_names import ParameterNameCache
from steadynorm_server.runs.record import RunRecord, stalled_event
from steadynorm_server.timeseries.rollups import ROWS, SCALARS


class RunRepository:
    """One process's access to the runs. `async with RunRepository(url).opened():` around its use.

    clock: returns Unix seconds. timed: makes a context around each round trip to Redis. waits: called with +1 and -1
    as long-polls begin and end.
    """

    def __init__(
        self,
        url: str,
        stalled_after_s: float = 30.0,
        clock: Callable[[], float] = time.time,
        timed: Timed = contextlib.nullcontext,
        waits: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.redis = connect(url, timed)
        self.stalled_after_s = stalled_after_s
        self.clock = clock
        self.changes = ChangeNotifier(self.redis, waits)
        self.dirty_runs = DirtyRuns()
        self._names = ParameterNameCache(self.redis)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[RunRepository]:
        """Subscribes to settings changes during the block, closes all connections at its end."""
        try:
            async with self.changes.running():
                yield self
        finally:
            await self.redis.close()

    async def check(self) -> None:
        """Raises redis-py's error when Redis does not answer or refuses writes."""
        await self.redis.check()

    async def get(self, run_id: str) -> RunRecord:
        """The run. Raises RunNotFound."""
        stored = await self.redis.hash(RunKeys(run_id).run) if is_run_id(run_id) else {}
        if not stored:
            raise RunNotFound(run_id)
        return RunRecord.decode(run_id, stored)

    async def get_many(self, run_ids: Sequence[str]) -> list[RunRecord]:
        """Those of the runs that exist, in one round trip."""
        stored = await self.redis.hashes([RunKeys(run_id).run for run_id in run_ids]) if run_ids else []
        return [RunRecord.decode(run_id, each) for run_id, each in zip(run_ids, stored, strict=True) if each]

    async def rebuild_index(self) -> int:
        """Find all runs by their keys and index them. Returns their number."""
        ids = [run_id async for key in self.redis.keys(SCAN_PATTERN) if (run_id := run_id_of(key)) is not None]
        scores = await self._start_times(ids)
        if scores:
            await self.redis.add_to_index(INDEX, scores)
        return len(scores)

    async def prune_index(self) -> None:
        """Remove runs from the index whose data Redis has lost. Called by the sweeper."""
        ids = await self.redis.index(INDEX)
        existing = await self._start_times(ids)
        if lost := [run_id for run_id in ids if run_id not in existing]:
            await self._remove_from_index(*lost)

    async def parameter_table(self, run: RunRecord) -> list[Parameter]:
        """The run's parameter table. Raises RunNotFound."""
        stored = await self.redis.get(RunKeys(run.run_id).parameters)
        if stored is None:
            raise RunNotFound(run.run_id)
        return msgspec.json.decode(stored, type=list[Parameter])

    async def parameter_names(self, run: RunRecord) -> Sequence[str]:
        """Names of the run's parameters in model order. Raises RunNotFound."""
        (names,) = await self._names.get([run])
        if len(names) != run.info.parameters:
            raise RunNotFound(run.run_id)
        return names

    async def parameter_names_of(self, runs: Sequence[RunRecord]) -> list[Sequence[str]]:
        """The same for many runs; empty for a run that was just deleted."""
        return await self._names.get(runs)

    async def delete(self, run_id: str) -> None:
        """Remove a run with all its data. Raises RunNotFound."""
        await self.get(run_id)
        await self.redis.remove(*_all_keys(run_id))
        await self._on_deleted(run_id)

    async def delete_if_expired(self, run: RunRecord) -> bool:
        """Remove a run unless its agent was heard from or it was changed since `run` was read. Returns whether."""
        expected = (repr(run.last_seen), repr(run.poll_expires_at), str(run.desired_revision), run.retention)
        deleted = await self.redis.script("delete_if_expired", _all_keys(run.run_id), *expected)
        if deleted:
            await self._on_deleted(run.run_id)
        return bool(deleted)

    async def mark_stalled(self, runs: Sequence[RunRecord]) -> None:
        """Store the `stalled` event of runs that fell silent, once for each silence. Called by the sweeper."""
        now = self.clock()
        for run in runs:
            if run.silent_s(now) > self.stalled_after_s and not run.stalled:
                keys, event = RunKeys(run.run_id), stalled_event(run, self.stalled_after_s)
                await self.redis.script(
                    "mark_stalled", [keys.run, keys.events], repr(run.last_seen), encode_json(event), MAX_EVENTS
                )
                self.dirty_runs.mark(run.run_id)

    async def _on_deleted(self, run_id: str) -> None:
        await self._remove_from_index(run_id)
        await self.redis.publish(CHANGES, run_id)

    async def _remove_from_index(self, *run_ids: str) -> None:
        """Remove deleted runs from the index; a run whose agent registered again meanwhile is added back."""
        await self.redis.remove_from_index(INDEX, *run_ids)
        if existing := await self._start_times(run_ids):
            await self.redis.add_to_index(INDEX, existing)

    async def _start_times(self, run_ids: Sequence[str]) -> dict[str, float]:
        """When each existing run was registered, Unix seconds."""
        started = await self.redis.fields([(RunKeys(run_id).run, "started") for run_id in run_ids])
        return {run_id: float(start) for run_id, start in zip(run_ids, started, strict=True) if start is not None}

    async def list(self) -> list[RunRecord]:  # last in the class: it hides the builtin in annotations below it
        """All runs, newest first."""
        return await self.get_many(await self.redis.index(INDEX))


def _all_keys(run_id: str) -> list[str]:
    keys = RunKeys(run_id)
    streams = [keys.history(level.name) for scheme in (SCALARS, ROWS) for level in scheme.levels]
    return [keys.run, keys.parameters, keys.peaks, keys.events, keys.audit, keys.outcomes, *streams]
