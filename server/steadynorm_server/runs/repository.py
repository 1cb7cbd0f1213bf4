"""Runs in Redis: get, list, delete, and the index of all runs. Knows nothing of what layers above do with a run.

Methods raise ProblemErrors for what a client did wrong, and redis-py's errors when Redis is unavailable.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Self

import msgspec
from redis.exceptions import NoPermissionError

from steadynorm_contract.codec import encode_json
from steadynorm_contract.runs import RunState
from steadynorm_contract.telemetry import Parameter
from steadynorm_server.background import background
from steadynorm_server.errors import RunNotFound
from steadynorm_server.redis.change_feed import ChangeNotifier
from steadynorm_server.redis.client import Timed
from steadynorm_server.redis.connect import connect
from steadynorm_server.redis.keys import CHANGES, LIVE, LOOK, SCAN_PATTERN, RunKeys, is_run_id, run_id_of
from steadynorm_server.runs.audience import Audience
from steadynorm_server.runs.catalogue import Catalogue
from steadynorm_server.runs.event_hints import DirtyRuns
from steadynorm_server.runs.events import MAX_EVENTS
from steadynorm_server.runs.index import RunIndex
from steadynorm_server.runs.parameter_names import ParameterNameCache
from steadynorm_server.runs.record import RunRecord, stalled_event
from steadynorm_server.runs.unanswered import Line, Unanswered
from steadynorm_server.runs.view import View
from steadynorm_server.timeseries.rollups import SCHEMES

_AT_ONCE = 1000
"""Runs in one round trip."""
QUIET_S = 172_800.0


class RunRepository:
    """One process's access to the runs. `async with RunRepository(url).opened():` around its use.

    clock: returns Unix seconds. timed: makes a context around each round trip to Redis. waits: called with +1 and -1
    as long-polls begin and end. quiet_after_s: a run that was neither closed nor heard from for so long is no
    longer read all the time.
    """

    def __init__(
        self,
        url: str,
        stalled_after_s: float = 30.0,
        clock: Callable[[], float] = time.time,
        timed: Timed = contextlib.nullcontext,
        waits: Callable[[int], object] = lambda _: None,
        quiet_after_s: float = QUIET_S,
    ) -> None:
        self.redis = connect(url, timed)
        self.stalled_after_s = stalled_after_s
        self.clock = clock
        self._quiet_after_s = quiet_after_s
        self.index = RunIndex(self.redis)
        self.catalogue = Catalogue(self.redis, self.index)
        self.audience = Audience(lambda run_id: self.redis.publish(CHANGES, LOOK + run_id))
        self.changes = ChangeNotifier(self.redis, waits, on_look=self.audience.note)
        self.dirty_runs = DirtyRuns()
        self.unanswered = Unanswered()
        self._heard: set[str] = set()
        self._names = ParameterNameCache(self.redis)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        """Subscribes to settings changes during the block, closes all connections at its end."""
        try:
            async with self.changes.running(), background("audit lines", self.unanswered.settle_repeatedly):
                yield self
        finally:
            await self.unanswered.close()
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
        """Those of the runs that exist, in one round trip, or in several where they are very many."""
        found = []
        for first in range(0, len(run_ids), _AT_ONCE):
            some = run_ids[first : first + _AT_ONCE]
            stored = await self.redis.hashes([RunKeys(run_id).run for run_id in some])
            found += [RunRecord.decode(run_id, each) for run_id, each in zip(some, stored, strict=True) if each]
        return found

    async def view(self) -> View:
        """All runs as rows, read anew. It holds until the caller waits for anything."""
        await self.catalogue.refresh()
        return self.current_view()

    def current_view(self) -> View:
        """The rows as they were read last, at this moment."""
        return self.catalogue.view(self.clock(), self.stalled_after_s)

    async def live(self) -> list[RunRecord]:
        """Runs that have not ended, newest first, without those that were silent for days."""
        return [run for run in await self.get_many(await self.redis.index(LIVE)) if run.is_live]

    async def rebuild_index(self) -> int:
        """Find all runs by their keys and index them. Returns their number."""
        ids = [run_id async for key in self.redis.keys(SCAN_PATTERN) if (run_id := run_id_of(key)) is not None]
        number = 0
        for first in range(0, len(ids), _AT_ONCE):
            some = ids[first : first + _AT_ONCE]
            stored = await self.redis.picked([RunKeys(run_id).run for run_id in some], ("started", "state"))
            found = dict(zip(some, stored, strict=True))
            starts = {run_id: float(started) for run_id, (started, _) in found.items() if started is not None}
            live = {run_id for run_id, (_, state) in found.items() if state == RunState.RUNNING.value.encode()}
            await self.index.restore(starts, live)
            number += len(starts)
        return number

    async def remove_lost(self, run_ids: Sequence[str]) -> None:
        """Remove those of a few runs from the index whose data Redis has lost. Called by the sweeper."""
        existing = await self._start_times(run_ids)
        if lost := [run_id for run_id in run_ids if run_id not in existing]:
            await self._remove_from_index(*lost)

    def hear(self, run_id: str) -> None:
        """A run's agent was heard from in this process: the next sweep looks whether it is listed as live."""
        self._heard.add(run_id)

    async def read_heard(self) -> None:
        """Read the runs that were heard from and that the index does not have as live, for `correct_live`."""
        heard, self._heard = self._heard, set()
        await self.catalogue.read(self.catalogue.not_live(heard))

    async def correct_live(self) -> None:
        """Let the live runs in the index be those that have not ended and were heard from lately. By the sweeper."""
        extra, lacking = self.catalogue.misplaced(self.current_view(), self._quiet_after_s)
        if extra:
            await self.index.rest(*extra)
        if lacking:
            await self.index.restore(lacking, lacking.keys())

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

    async def delete(self, run_id: str, line: Line) -> None:
        """Remove a run with all its data. Raises RunNotFound. line: written at once, whatever fails afterwards."""
        run = await self.get(run_id)
        with self._following_removal(run, line):
            await self.redis.remove(*_all_keys(run_id))
        self.unanswered.forget(_removal(run))
        line()
        await self._on_deleted(run_id)

    async def delete_if_expired(self, run: RunRecord, line: Line) -> bool:
        """Remove a run unless its agent was heard from or it was changed since `run` was read. Returns whether.

        line: written at once, whatever fails afterwards.
        """
        expected = (repr(run.last_seen), repr(run.poll_expires_at), str(run.desired_revision), run.automation_version)
        with self._following_removal(run, line):
            deleted = await self.redis.script("delete_if_expired", _all_keys(run.run_id), *expected)
        if deleted:
            self.unanswered.forget(_removal(run))
            line()
            await self._on_deleted(run.run_id)
        return bool(deleted)

    async def mark_stalled(self, runs: Sequence[RunRecord]) -> None:
        """Store the `stalled` event of runs that fell silent, once for each silence. Called by the sweeper."""
        now = self.clock()
        for run in runs:
            if not run.stalled and run.is_stalled(now, self.stalled_after_s):
                keys, event = RunKeys(run.run_id), stalled_event(run, self.stalled_after_s)
                heard = repr(run.last_seen), repr(run.poll_expires_at)
                await self.redis.script("mark_stalled", [keys.run, keys.events], *heard, encode_json(event), MAX_EVENTS)
                self.dirty_runs.mark(run.run_id)

    async def announce(self, run_id: str) -> None:
        """Wake who waits for changes of a run. What was done stands, also where Redis forbids the message."""
        with contextlib.suppress(NoPermissionError):
            await self.redis.publish(CHANGES, run_id)

    def _following_removal(self, run: RunRecord, line: Line) -> contextlib.AbstractContextManager[None]:
        async def look() -> Sequence[Line]:
            started = await self._start_times([run.run_id])
            return () if started.get(run.run_id) == run.started else (line,)  # its agent may have registered again

        return self.unanswered.following(_removal(run), look, [line])

    async def _on_deleted(self, run_id: str) -> None:
        await self._remove_from_index(run_id)
        await self.announce(run_id)

    async def _remove_from_index(self, *run_ids: str) -> None:
        """Remove deleted runs from the index; a run whose agent registered again meanwhile is added back."""
        await self.index.remove(*run_ids)
        if existing := await self._start_times(run_ids):
            await self.index.add(existing)

    async def _start_times(self, run_ids: Sequence[str]) -> dict[str, float]:
        """When each existing run was registered, Unix seconds."""
        started = await self.redis.fields([(RunKeys(run_id).run, "started") for run_id in run_ids])
        return {run_id: float(start) for run_id, start in zip(run_ids, started, strict=True) if start is not None}


def _removal(run: RunRecord) -> str:
    """Of a change without an answer, see `Unanswered.following`."""
    return f"removal of {run.run_id}, {run.started!r}"


def _all_keys(run_id: str) -> list[str]:
    keys = RunKeys(run_id)
    streams = [keys.history(level.name) for scheme in SCHEMES for level in scheme.levels]
    named = [keys.run, keys.parameters, keys.configuration, keys.peaks, keys.events, keys.audit, keys.notes]
    return [*named, keys.outcomes, *streams]
