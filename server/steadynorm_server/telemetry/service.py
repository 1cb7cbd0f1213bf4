"""Stores telemetry: reads the run, validates the batch, plans what it adds, commits the plan, runs due actions."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.events import EventKind
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import Desired, TelemetryAck, TelemetryBatch
from steadynorm_server import audit_log
from steadynorm_server.auth.principals import Principal
from steadynorm_server.automation.execution import run_due_actions
from steadynorm_server.errors import ProblemError
from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.retention.policy import Limits
from steadynorm_server.runs import notes
from steadynorm_server.runs.cache import CachedRun, RunCache
from steadynorm_server.runs.events import MAX_AUDIT, MAX_EVENTS
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runs.unanswered import Line
from steadynorm_server.settings.conditional_writes import MAX_ATTEMPTS, contention_error
from steadynorm_server.telemetry.ingest import IngestPlan, plan_batch
from steadynorm_server.telemetry.pace import pace_s
from steadynorm_server.telemetry.rollback_requests import requests
from steadynorm_server.telemetry.validation import validate_batch
from steadynorm_server.timeseries.blocks import Block
from steadynorm_server.timeseries.peaks import Peaks
from steadynorm_server.timeseries.rollups import HistoryMovedError, Resolution, read_block


class TelemetryService:
    """One process's ingestion. limits: how much each run's history may take."""

    def __init__(self, repository: RunRepository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits
        self._cache = RunCache()

    async def ingest(self, run_id: str, batch: TelemetryBatch, sender: Principal) -> TelemetryAck:
        """Store a batch once, however often it is sent. Raises RunNotFound, 409 for an old incarnation, 422."""
        cached = self._cache.take(run_id)
        if cached and cached.run.silent_s(self._repository.clock()) > self._repository.stalled_after_s:
            cached = None  # whether its agent polled meanwhile is in Redis only
        for _ in range(MAX_ATTEMPTS):
            cached = cached or CachedRun(await self._repository.get(run_id))
            run = cached.run
            sender.require_run(run.name)
            validate_batch(batch, run.info.parameters)
            if batch.incarnation != run.incarnation or batch.sequence != run.sequence + 1:
                if cached.from_redis:
                    return self._acknowledge(run, _check_known(run, batch))
            elif (plan := await self._plan(cached, batch)) and await self._commit(run, batch, plan, sender):
                self._cache.put(cached)
                return self._acknowledge(run, await run_due_actions(self._repository, run))
            cached = None  # the run is not what it was taken for: read it again
        raise contention_error(run_id)

    def _acknowledge(self, run: RunRecord, desired: Desired) -> TelemetryAck:
        """The answer to a batch, now or earlier stored: everything up to the run's newest one is."""
        repository = self._repository
        seen, limit = repository.audience.looks_at(run.run_id), repository.stalled_after_s
        return TelemetryAck(run.sequence, desired, pace_s(run, repository.clock(), seen=seen, stalled_after_s=limit))

    async def _plan(self, cached: CachedRun, batch: TelemetryBatch) -> IngestPlan | None:
        """What the batch adds. None where the history in Redis is not the one that `cached` describes."""
        run, redis = cached.run, self._repository.redis
        keys = RunKeys(run.run_id)
        if batch.rows and cached.peaks is None:
            cached.peaks = Peaks.decode(await redis.get(keys.peaks), run.info.parameters)

        async def read(level: Resolution, after: int) -> list[Block]:
            entries = await redis.entries_after(keys.history(level.name), after)
            return [read_block(level, fields[b"block"], len(run.logged.columns)) for fields in entries]

        async def names() -> Sequence[str]:
            return await self._repository.parameter_names(run)

        try:
            asked = await requests(redis, run.run_id, batch)
            now, stalled_after_s = self._repository.clock(), self._repository.stalled_after_s
            return await plan_batch(run, batch, cached.peaks, names, read, now, stalled_after_s, asked)
        except HistoryMovedError:
            return None

    async def _commit(self, run: RunRecord, batch: TelemetryBatch, plan: IngestPlan, sender: Principal) -> bool:
        """Store the plan if the run is still as expected, and update `run`. Returns whether it was stored."""
        keys = RunKeys(run.run_id)
        with self._following(run, batch, plan, sender) if plan.notes or plan.adopt else contextlib.nullcontext():
            answer = await self._repository.redis.grouped_script(
                "commit",
                [keys.run, keys.events, keys.outcomes, keys.peaks, keys.notes]
                + [keys.history(append.level.name) for append in plan.appends],
                *_arguments(run, plan, self._limits.budget_factor(run)),
            )
        if answer[0] != b"ok":
            return False
        run.desired_revision = int(answer[1])
        if answer[2] != run.stored_desired:
            run.stored_desired, run.desired = answer[2], msgspec.json.decode(answer[2], type=Settings)
        for note in plan.notes:
            notes.record(run, note)
        if plan.adopt is not None and plan.adopt[0] == run.desired_revision:
            _adoption(run, plan.adopt, sender)()
        self._repository.unanswered.forget(_key(run, batch))
        self._repository.hear(run.run_id)
        if plan.events:
            self._repository.dirty_runs.mark(run.run_id)
        if not run.is_live:
            await self._repository.index.touch(run.run_id)  # the last of its queue came after its end
        elif any(event.kind is EventKind.RESUMED for event in plan.events):
            await self._repository.index.add({run.run_id: run.started})  # it may have been silent for days
        if plan.notes:
            run.notes_head = plan.notes[-1].hash
        run.sequence, run.last_seen, run.stalled = batch.sequence, plan.time, ""
        return True

    def _following(
        self, run: RunRecord, batch: TelemetryBatch, plan: IngestPlan, sender: Principal
    ) -> contextlib.AbstractContextManager[None]:
        """Look for what the batch does beside telemetry, should its answer be lost."""
        look_for_notes, lines = notes.unanswered_notes(self._repository, run, plan.notes)
        adoption = [_adoption(run, plan.adopt, sender)] if plan.adopt else []

        async def look() -> Sequence[Line]:
            (at,) = await self._repository.redis.fields([(RunKeys(run.run_id).run, "rollback_time")])
            adopted = at is not None and at.decode() == plan.fields["last_seen"]
            return [*await look_for_notes(), *(adoption if adopted else ())]

        return self._repository.unanswered.following(_key(run, batch), look, [*lines, *adoption])


def _key(run: RunRecord, batch: TelemetryBatch) -> str:
    return f"batch {batch.sequence} of {run.run_id}, {batch.incarnation}"


def _adoption(run: RunRecord, adopted: tuple[int, bytes, int], sender: Principal) -> Line:
    revision, settings, step = adopted
    entry = {"revision": revision, "step": step, "settings": msgspec.json.decode(settings)}
    return partial(audit_log.record, "adopted", run.run_id, sender.name, name=run.name, entry=entry)


def _check_known(run: RunRecord, batch: TelemetryBatch) -> Desired:
    """The desired settings, for a batch that is already stored. Raises 409 problems for one that does not follow."""
    if batch.incarnation != run.incarnation:
        raise other_incarnation(run.run_id, batch.incarnation, run.incarnation)
    if batch.sequence > run.sequence:
        # Batches follow one another: a gap means that Redis lost what was acknowledged, settings perhaps too.
        raise ProblemError(
            409,
            f"batch {batch.sequence} of run {run.run_id} came after {run.sequence}: Redis was restored to an older "
            "state. Register again, so that both know the newest settings.",
            title="Rewound",
        )
    return run.desired_settings()


def _arguments(run: RunRecord, plan: IngestPlan, budget_factor: float) -> Iterator[bytes | str | int]:
    """The plan as commit.lua reads it."""
    for fields in (run.expected() | plan.expected, plan.fields):
        yield len(fields)
        for pair in fields.items():
            yield from pair
    yield _seldom(plan)
    yield plan.peaks.encode() if plan.peaks else b""
    for append in plan.appends:
        yield append.level.name
        yield append.id
        yield append.first
        yield append.last
        yield int(append.level.budget * budget_factor)
        yield append.rolled
        yield append.data


def _seldom(plan: IngestPlan) -> bytes:
    """What few batches bring, as JSON; empty where there is nothing of it."""
    if not (plan.events or plan.notes or plan.outcomes or plan.adopt):
        return b""
    additions: dict[str, object] = {
        "events": [encode_json(event).decode() for event in plan.events],
        "notes": [encode_json(note).decode() for note in plan.notes],
        "max_events": MAX_EVENTS,
        "max_outcomes": MAX_AUDIT,
        "outcomes": [
            {"revision": str(revision), "report": encode_json(outcome).decode()}
            for revision, outcome in plan.outcomes.items()
        ],
    }
    if plan.adopt is not None:
        revision, settings, step = plan.adopt
        now = plan.fields["last_seen"]
        additions["adopt"] = {"revision": str(revision), "settings": settings.decode(), "step": str(step), "now": now}
    return encode_json(additions)


def other_incarnation(run_id: str, given: int, known: int) -> ProblemError:
    """409: the sender is not the run's present agent."""
    why = "another agent took over the run" if given < known else "this server does not know that agent"
    return ProblemError(
        409, f"run {run_id} is at incarnation {known}, got {given}: {why}. Register again to continue.",
        title="Superseded",
    )  # fmt: skip
