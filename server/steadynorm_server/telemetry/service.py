"""Stores telemetry: reads the run, validates the batch, plans what it adds, commits the plan, runs due actions."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import TelemetryAck, TelemetryBatch
from steadynorm_server.auth.principals import Principal
from steadynorm_server.automation.execution import run_due_actions
from steadynorm_server.errors import ProblemError
from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.retention.policy import Limits
from steadynorm_server.runs.cache import CachedRun, RunCache
from steadynorm_server.runs.events import MAX_AUDIT, MAX_EVENTS
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.settings.conditional_writes import MAX_ATTEMPTS, contention_error
from steadynorm_server.telemetry.ingest import IngestPlan, plan_batch
from steadynorm_server.telemetry.validation import check_batch
from steadynorm_server.timeseries.blocks import Block, unpack
from steadynorm_server.timeseries.peaks import Peaks
from steadynorm_server.timeseries.rollups import HistoryMovedError, Resolution


class TelemetryService:
    """One process's ingestion. limits: how much each run's history may take."""

    def __init__(self, repository: RunRepository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits
        self._cache = RunCache()

    async def ingest(self, run_id: str, batch: TelemetryBatch, sender: Principal) -> TelemetryAck:
        """Store a batch once, however often it is sent. Raises RunNotFound, 409 for an old incarnation, 422."""
        cached = self._cache.take(run_id)
        for _ in range(MAX_ATTEMPTS):
            cached = cached or CachedRun(await self._repository.get(run_id))
            run = cached.run
            sender.require_run(run.name)
            check_batch(batch, run.info.parameters)
            if batch.incarnation != run.incarnation or batch.sequence != run.sequence + 1:
                if cached.from_redis:
                    return _acknowledge_known(run, batch)
            elif (plan := await self._plan(cached, batch)) and await self._commit(run, batch, plan):
                self._cache.put(cached)
                return TelemetryAck(batch.sequence, await run_due_actions(self._repository, run))
            cached = None  # the run is not what it was taken for: read it again
        raise contention_error(run_id)

    async def _plan(self, cached: CachedRun, batch: TelemetryBatch) -> IngestPlan | None:
        """What the batch adds. None where the history in Redis is not the one that `cached` describes."""
        run, redis = cached.run, self._repository.redis
        keys = RunKeys(run.run_id)
        if batch.rows and cached.peaks is None:
            cached.peaks = Peaks.decode(await redis.get(keys.peaks), run.info.parameters)

        async def read(level: Resolution, after: int) -> list[Block]:
            return [unpack(fields[b"block"]) for fields in await redis.entries_after(keys.history(level.name), after)]

        async def names() -> Sequence[str]:
            return await self._repository.parameter_names(run)

        try:
            return await plan_batch(
                run, batch, cached.peaks, names, read, self._repository.clock(), self._repository.stalled_after_s
            )
        except HistoryMovedError:
            return None

    async def _commit(self, run: RunRecord, batch: TelemetryBatch, plan: IngestPlan) -> bool:
        """Store the plan if the run is still as expected, and update `run`. Returns whether it was stored."""
        keys = RunKeys(run.run_id)
        answer = await self._repository.redis.script(
            "commit",
            [keys.run, keys.events, keys.outcomes, keys.peaks]
            + [keys.history(append.level.name) for append in plan.appends],
            encode_json({"expected": run.expected(), **_additions(plan, self._limits.budget_factor(run))}),
            plan.peaks.encode() if plan.peaks else b"",
            *(append.data for append in plan.appends),
        )
        if answer[0] != b"ok":
            return False
        if plan.events:
            self._repository.dirty_runs.mark(run.run_id)
        run.sequence, run.last_seen, run.stalled = batch.sequence, plan.time, ""
        run.desired_revision, run.desired = int(answer[1]), msgspec.json.decode(answer[2], type=Settings)
        return True


def _acknowledge_known(run: RunRecord, batch: TelemetryBatch) -> TelemetryAck:
    """The answer to a batch that is already stored. Raises 409 problems for one that does not follow."""
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
    return TelemetryAck(run.sequence, run.desired_settings())


def _additions(plan: IngestPlan, budget_factor: float) -> dict[str, object]:
    """The plan as commit.lua reads it."""
    additions: dict[str, object] = {
        "set": [text if isinstance(text, str) else text.decode() for pair in plan.fields.items() for text in pair],
        "events": [encode_json(event).decode() for event in plan.events],
        "max_events": MAX_EVENTS,
        "max_outcomes": MAX_AUDIT,
        "outcomes": [
            {"revision": str(revision), "report": encode_json(outcome).decode()}
            for revision, outcome in plan.outcomes.items()
        ],
        "appends": [
            {
                "level": append.level.name,
                "id": str(append.id),
                "first": append.first,
                "last": append.last,
                "budget": int(append.level.budget * budget_factor),
                "rolled": append.rolled,
            }
            for append in plan.appends
        ],
    }
    if plan.adopt is not None:
        revision, settings, step = plan.adopt
        now = plan.fields["last_seen"]
        additions["adopt"] = {"revision": str(revision), "settings": settings.decode(), "step": str(step), "now": now}
    return additions


def other_incarnation(run_id: str, given: int, known: int) -> ProblemError:
    """409: the sender is not the run's present agent."""
    why = "another agent took over the run" if given < known else "this server does not know that agent"
    return ProblemError(
        409, f"run {run_id} is at incarnation {known}, got {given}: {why}. Register again to continue.",
        title="Superseded",
    )  # fmt: skip
