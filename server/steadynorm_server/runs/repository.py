"""Everything about runs, over Redis. Conditional writes are Lua scripts; what is remembered between calls (`recent`) is
checked by them.

Methods raise ProblemErrors for what a client did, and redis-py's errors when the store is away.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

import msgspec
from redis.exceptions import ResponseError

from steadynorm_contract.codec import encode_json
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import Desired, Parameter, TelemetryAck, TelemetryBatch
from steadynorm_server.auth.tokens import Principal
from steadynorm_server.automation import execution, rule_evaluation
from steadynorm_server.errors import ProblemError, RunNotFound
from steadynorm_server.redis.change_feed import ChangeNotifier
from steadynorm_server.redis.client import Timed, is_write_refused
from steadynorm_server.redis.cluster import connect
from steadynorm_server.redis.keys import CHANGES, INDEX, SCAN_PATTERN, RunKeys, is_run_id, run_id_of
from steadynorm_server.runs.cache import CachedRun, RunCache
from steadynorm_server.runs.event_hints import DirtyRuns
from steadynorm_server.runs.events import MAX_AUDIT, MAX_EVENTS
from steadynorm_server.runs.parameter_names import Names
from steadynorm_server.runs.record import RunRecord, stalled_event
from steadynorm_server.telemetry import spike_ratios
from steadynorm_server.telemetry.ingest import IngestPlan, plan_batch
from steadynorm_server.telemetry.validation import check_batch
from steadynorm_server.timeseries.blocks import Block, unpack
from steadynorm_server.timeseries.peaks import Peaks
from steadynorm_server.timeseries.rollups import ROWS, SCALARS, HistoryMovedError, Resolution

__all__ = ["MAX_EVENTS", "RunRepository", "other_incarnation"]

_ATTEMPTS = 8


class RunRepository:
    """One process's way to the runs. `async with Store(url).opened():` around its use.

    clock: Unix seconds; tests bring their own. timed: makes a context around each round trip. waits: told of
    long-polls that come and go, +1 and -1.
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
        self.news = DirtyRuns()
        self._recent = RunCache()
        self.names = Names()
        self._tables: dict[str, list[Parameter]] = {}
        self.budgets: Callable[[RunRecord], float] = lambda _: 1.0
        """Factor on the bytes that each level of a run's history may take."""

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[RunRepository]:
        """Listens to changes meanwhile, closes the connections at the end."""
        try:
            async with self.changes.running():
                yield self
        finally:
            await self.redis.close()

    async def check(self) -> None:
        """Raises redis-py's error when the store does not answer or takes no writes."""
        await self.redis.check()

    async def find(self, run_id: str) -> RunRecord:
        """The run. Raises RunNotFound."""
        stored = await self.redis.hash(RunKeys(run_id).run) if is_run_id(run_id) else {}
        if not stored:
            raise RunNotFound(run_id)
        return RunRecord.decode(run_id, stored)

    async def all(self) -> list[RunRecord]:
        """All runs, newest first."""
        ids = await self.redis.index(INDEX)
        stored = await self.redis.hashes([RunKeys(run_id).run for run_id in ids])
        if lost := [run_id for run_id, each in zip(ids, stored, strict=True) if not each]:
            with _another_time():
                await self._unlist(*lost)
        return [RunRecord.decode(run_id, each) for run_id, each in zip(ids, stored, strict=True) if each]

    async def rebuild_index(self) -> int:
        """Find all runs by their keys and index them. Returns their number."""
        ids = [run_id async for key in self.redis.keys(SCAN_PATTERN) if (run_id := run_id_of(key)) is not None]
        started = await self.redis.fields([(RunKeys(run_id).run, "started") for run_id in ids])
        scores = {run_id: float(start) for run_id, start in zip(ids, started, strict=True) if start is not None}
        if scores:
            await self.redis.add_to_index(INDEX, scores)
        return len(scores)

    async def table(self, run: RunRecord) -> list[Parameter]:
        """The run's parameter table."""
        # Kept by its digest, so what is kept can never be wrong, in this process or another.
        if (table := self._tables.get(run.digest)) is None:
            stored = await self.redis.get(RunKeys(run.run_id).parameters)
            if stored is None:
                raise RunNotFound(run.run_id)
            table = msgspec.json.decode(stored, type=list[Parameter])
            while len(self._tables) >= 64:
                self._tables.pop(next(iter(self._tables)))
            self._tables[run.digest] = table
        return table

    async def delete(self, run_id: str) -> None:
        """Remove a run with all its data. Raises RunNotFound."""
        await self.find(run_id)
        await self.redis.remove(*_all_keys(run_id))
        await self._left(run_id)

    async def forget(self, run: RunRecord) -> bool:
        """Remove a run unless it was heard of or changed since `run` was read. Returns whether it was removed."""
        judged = (repr(run.last_seen), repr(run.listening), str(run.desired_revision), run.retention)
        removed = await self.redis.script("forget", _all_keys(run.run_id), *judged)
        if removed:
            await self._left(run.run_id)
        return bool(removed)

    async def _left(self, run_id: str) -> None:
        await self._unlist(run_id)
        await self.redis.publish(CHANGES, run_id)

    async def _unlist(self, *run_ids: str) -> None:
        """Take runs that are gone out of the index. One whose agent registered anew meanwhile is put back."""
        await self.redis.remove_from_index(INDEX, *run_ids)
        started = await self.redis.fields([(RunKeys(run_id).run, "started") for run_id in run_ids])
        back = {run_id: float(start) for run_id, start in zip(run_ids, started, strict=True) if start is not None}
        if back:
            await self.redis.add_to_index(INDEX, back)

    async def ingest(self, run_id: str, batch: TelemetryBatch, sender: Principal) -> TelemetryAck:
        """Store a batch once, however often it comes. Raises RunNotFound, 409 for an old incarnation, 422."""
        known = self._recent.take(run_id)
        for _ in range(_ATTEMPTS):
            known = known or CachedRun(await self.find(run_id))
            run = known.run
            sender.require_run(run.name)
            check_batch(batch, run.info.parameters)
            if batch.incarnation == run.incarnation and batch.sequence == run.sequence + 1:
                if (desired := await self._add(known, batch)) is not None:
                    self._recent.put(known)
                    if execution.is_due(run):
                        desired = await execution.run_due_actions(self, run)
                    return TelemetryAck(batch.sequence, desired)
            elif known.fresh:
                if batch.incarnation != run.incarnation:
                    raise other_incarnation(run_id, batch.incarnation, run.incarnation)
                if batch.sequence > run.sequence:
                    raise _rewound(run_id, batch.sequence, run.sequence)
                return TelemetryAck(run.sequence, run.wanted())
            known = None
        raise ProblemError(
            503, f"run {run_id} is being written by many at once; try again.", headers={"Retry-After": "1"}
        )

    async def _add(self, known: CachedRun, batch: TelemetryBatch) -> Desired | None:
        """Commit a batch and move `known` on; returns None when the run is not what it was taken for."""
        run = known.run
        keys, expected = RunKeys(run.run_id), run.expected()
        if batch.rows and known.peaks is None:
            known.peaks = Peaks.decode(await self.redis.get(keys.peaks), run.info.parameters)

        async def read(level: Resolution, after: int) -> list[Block]:
            return [
                unpack(fields[b"block"]) for fields in await self.redis.entries_after(keys.history(level.name), after)
            ]

        async def names() -> Sequence[str]:
            return [parameter.name for parameter in await self.table(run)]

        now = self.clock()
        try:
            addition = await plan_batch(run, batch, known.peaks, names, read, now, self.stalled_after_s)
        except HistoryMovedError:
            return None
        if batch.rows:
            addition.fields |= spike_ratios.kept(batch.rows)
        if run.rules:
            addition.fields["watch"] = rule_evaluation.observe(run, batch.scalars, now)
        answer = await self.redis.script(
            "commit",
            [keys.run, keys.events, keys.outcomes, keys.peaks]
            + [keys.history(append.level.name) for append in addition.appends],
            encode_json({"expected": expected, **_plan(addition, self.budgets(run))}),
            addition.peaks.encode() if addition.peaks else b"",
            *(append.data for append in addition.appends),
        )
        if answer[0] != b"ok":
            return None
        if addition.events:
            self.news.note(run.run_id)
        run.sequence, run.last_seen, run.stalled = batch.sequence, now, ""
        run.desired_revision, run.desired = int(answer[1]), msgspec.json.decode(answer[2], type=Settings)
        return run.wanted()

    async def mark_stalled(self, runs: Sequence[RunRecord]) -> None:
        """Write the `stalled` event of runs that fell silent, unless somebody did. A store may refuse it for now."""
        now = self.clock()
        for run in runs:
            if run.silent_s(now) > self.stalled_after_s and not run.stalled:
                keys, event = RunKeys(run.run_id), stalled_event(run, self.stalled_after_s)
                with _another_time():
                    await self.redis.script(
                        "stall", [keys.run, keys.events], repr(run.last_seen), encode_json(event), MAX_EVENTS
                    )
                    self.news.note(run.run_id)


@contextlib.contextmanager
def _another_time() -> Iterator[None]:
    """What the block writes on the occasion of a read: a store that takes no writes is read all the same."""
    try:
        yield
    except ResponseError as error:
        if not is_write_refused(error):
            raise


def _all_keys(run_id: str) -> list[str]:
    keys = RunKeys(run_id)
    streams = [keys.history(level.name) for ladder in (SCALARS, ROWS) for level in ladder.levels]
    return [keys.run, keys.parameters, keys.peaks, keys.events, keys.audit, keys.outcomes, *streams]


def _plan(addition: IngestPlan, budgets: float) -> dict[str, object]:
    fields: Mapping[str, str | bytes] = addition.fields
    plan: dict[str, object] = {
        "set": [text if isinstance(text, str) else text.decode() for pair in fields.items() for text in pair],
        "events": [encode_json(event).decode() for event in addition.events],
        "max_events": MAX_EVENTS,
        "max_outcomes": MAX_AUDIT,
        "outcomes": [
            {"revision": str(revision), "report": encode_json(outcome).decode()}
            for revision, outcome in addition.outcomes.items()
        ],
        "appends": [
            {
                "level": append.level.name,
                "id": str(append.id),
                "first": append.first,
                "last": append.last,
                "budget": int(append.level.budget * budgets),
                "rolled": append.rolled,
            }
            for append in addition.appends
        ],
    }
    if addition.adopt is not None:
        plan["adopt"] = {
            "revision": str(addition.adopt[0]),
            "settings": addition.adopt[1].decode(),
            "step": str(addition.adopt[2]),
            "now": fields["last_seen"],
        }
    return plan


def _rewound(run_id: str, given: int, known: int) -> ProblemError:
    """Batches come one after another: a gap means that the store lost what it acknowledged, settings perhaps too."""
    return ProblemError(
        409,
        f"batch {given} of run {run_id} came after {known}: this store was put back to an older state. "
        "Register again, so that both know the newest settings.",
        title="Rewound",
    )


def other_incarnation(run_id: str, given: int, known: int) -> ProblemError:
    why = "another agent took the run over" if given < known else "this server does not know that agent"
    return ProblemError(
        409,
        f"run {run_id} is at incarnation {known}, this is from {given}: {why}. Register again to go on.",
        title="Superseded",
    )
