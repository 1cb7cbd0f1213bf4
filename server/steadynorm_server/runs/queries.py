"""Answers to what people ask about runs: lists, series, heat maps, parameters, events, audit. Reads only."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import Sequence

import msgspec

from steadynorm_contract.audit import AuditChain, AuditEntry, AuditList, verify
from steadynorm_contract.configuration import RunConfiguration
from steadynorm_contract.events import Event, EventList
from steadynorm_contract.rule import target
from steadynorm_contract.runs import RevisionState, RunDetail, RunList, RunSummary
from steadynorm_contract.series import Heatmap, ParameterList, ParameterView, Series, SeriesResponse
from steadynorm_contract.telemetry import ROW_COLUMNS, Parameter
from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.runs.events import MAX_AUDIT
from steadynorm_server.runs.pagination import RunFilter
from steadynorm_server.runs.record import Outcome, RunRecord, StoredChange, detail, summary
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.timeseries import query
from steadynorm_server.timeseries.blocks import Block, block_width, unpack
from steadynorm_server.timeseries.peaks import Peaks
from steadynorm_server.timeseries.query import Pick, Span
from steadynorm_server.timeseries.rollups import ROWS, RollupScheme, read_block

_MAX_INLINE_SERIES = 64
MAX_CELLS = 200_000
"""Of one heat map. A model with very many parameters gets fewer buckets instead."""


class RunQueries:
    """The answers of the GET routes. None of them writes."""

    def __init__(self, repository: RunRepository) -> None:
        self._repository = repository

    async def runs(self, listing: RunFilter = RunFilter()) -> RunList:  # noqa: B008 # it is immutable
        """A page of the runs. Raises a 422 problem for a bad cursor."""
        view = await self._repository.view()
        run_ids, cursor = listing.page(view)
        return RunList(await self.summaries(await self._repository.get_many(run_ids)), cursor)

    async def summaries(self, runs: Sequence[RunRecord]) -> list[RunSummary]:
        """A row of GET /runs for each."""
        outcomes = await self._last_outcomes(runs)
        now, limit = self._repository.clock(), self._repository.stalled_after_s
        return [summary(run, outcome, now, limit) for run, outcome in zip(runs, outcomes, strict=True)]

    async def run(self, run_id: str) -> RunDetail:
        """One run."""
        run = await self._repository.get(run_id)
        (outcome,) = await self._last_outcomes([run])
        return detail(run, outcome, self._repository.clock(), self._repository.stalled_after_s)

    async def configuration(self, run_id: str) -> RunConfiguration:
        """What the run was started with; empty where its agent did not say. Raises RunNotFound."""
        await self._repository.get(run_id)
        stored = await self._repository.redis.get(RunKeys(run_id).configuration)
        return msgspec.json.decode(stored, type=RunConfiguration) if stored else RunConfiguration()

    async def series(
        self, run_id: str, names: Sequence[str], first: int | None, last: int | None, points: int
    ) -> SeriesResponse:
        """Series by name. Raises RunNotFound, or a 422 problem for a name that does not exist."""
        run = await self._repository.get(run_id)
        parameters: Sequence[str] = ()
        if any("/" in name and name not in run.logged.columns for name in names):
            parameters = await self._repository.parameter_names(run)
        return SeriesResponse(await self._series(run, names, parameters, first, last, points))

    async def heatmap(self, run_id: str, signal: str, first: int | None, last: int | None, points: int) -> Heatmap:
        """One signal of every parameter, in model order: the worst value of each bucket. Raises RunNotFound."""
        run = await self._repository.get(run_id)
        parameters = await self._repository.parameter_names(run)
        if not parameters:
            return Heatmap(signal, [], [], [], [], [])
        names = [f"{signal}/{parameter}" for parameter in parameters]
        points = max(1, min(points, MAX_CELLS // len(names)))
        found = await self._series(run, names, parameters, first, last, points)
        shared = found[names[0]]
        worst = [found[name].min if signal == "target" else found[name].max for name in names]
        return Heatmap(signal, list(parameters), shared.step, shared.count, shared.time, worst)

    async def _series(
        self,
        run: RunRecord,
        names: Sequence[str],
        parameters: Sequence[str],
        first: int | None,
        last: int | None,
        points: int,
    ) -> dict[str, Series]:
        places = {name: at for at, name in enumerate(parameters)}
        logged = run.logged.places
        picks = [query.pick(name, places, run.applied.eps, logged) for name in dict.fromkeys(names)]
        begin, end = run.progress.first_step, run.progress.last_step
        if begin is None or end is None or max(begin, first or 0) > (end if last is None else min(end, last)):
            return {pick.name: Series([], [], [], [], []) for pick in picks}
        span = Span(max(begin, first or 0), end if last is None else min(end, last), points)
        whole = span.first == begin and span.last == end
        found: dict[str, Series] = {}
        for scheme in dict.fromkeys(pick.scheme for pick in picks):
            found |= await self._bucket(run, scheme, [pick for pick in picks if pick.scheme is scheme], span, whole)
        return {pick.name: found[pick.name] for pick in picks}

    async def _bucket(
        self, run: RunRecord, scheme: RollupScheme, picks: Sequence[Pick], span: Span, whole: bool
    ) -> dict[str, Series]:
        level = query.choose(scheme, run.trimmed, span, whole)
        # The chosen level, then all finer ones for what it does not contain yet.
        levels = scheme.levels[scheme.levels.index(level) :: -1]
        keys = RunKeys(run.run_id)
        begin = span.first // level.width * level.width
        stored = await self._repository.redis.script(
            "blocks",
            [keys.run, *(keys.history(each.name) for each in levels)],
            begin,
            span.last,
            *(each.name for each in levels),
        )

        width = max((block_width(data) for part in stored for data in part), default=0)
        width = max(width, len(run.logged.columns))  # blocks may be newer than `run`, and have more columns

        def bucket() -> dict[str, Series]:
            blocks = [read_block(of, data, width) for of, part in zip(levels, stored, strict=True) for data in part]
            return query.bucket(level, blocks, picks, span)

        # A heat map of hundreds of parameters takes a tenth of a second, which must not block the event loop.
        return await asyncio.to_thread(bucket) if len(picks) > _MAX_INLINE_SERIES else bucket()

    async def parameters(self, run_id: str, limit: int | None = None, cursor: str | None = None) -> ParameterList:
        """The parameter table with each one's newest row, `limit` of them from the cursor on. Raises RunNotFound."""
        run = await self._repository.get(run_id)
        table = await self._repository.parameter_table(run)
        peaks = Peaks.decode(await self._repository.redis.get(RunKeys(run_id).peaks), len(table))
        row = await self.newest_row(run)
        first = int(cursor or 0)
        stop = len(table) if limit is None else min(first + limit, len(table))
        newest = None if row is None else row.mean[-row.width :]
        listed = [_listed(table[at], at, newest, peaks, run.applied.eps) for at in range(first, stop)]
        return ParameterList(None if row is None else row.steps[-1], listed, str(stop) if stop < len(table) else None)

    async def newest_row(self, run: RunRecord) -> Block | None:
        """The raw block whose last record is the newest row of the run's parameters."""
        entries = await self._repository.redis.newest_entries(RunKeys(run.run_id).history(ROWS.levels[0].name), 1)
        return unpack(entries[0][1][b"block"]) if entries else None

    async def events(self, run_id: str, limit: int, cursor: str | None = None) -> EventList:
        """Events, newest first, those before the cursor."""
        await self._repository.get(run_id)  # raises RunNotFound
        entries = await self._repository.redis.newest_entries(RunKeys(run_id).events, limit + 1, cursor)
        return EventList(
            [
                msgspec.structs.replace(msgspec.json.decode(fields[b"event"], type=Event), id=at)
                for at, fields in entries[:limit]
            ],
            _next(entries, limit),
        )

    async def audit(self, run_id: str, limit: int, cursor: str | None = None, verify_chain: bool = False) -> AuditList:
        """Settings changes, newest first, those before the cursor, each with its outcome.

        verify_chain: also verify the hash chain of these entries; only from the newest one on, so not with a cursor.
        """
        run = await self._repository.get(run_id)
        keys = RunKeys(run_id)
        entries = await self._repository.redis.newest_entries(keys.audit, limit + 1, cursor)
        changes = [msgspec.json.decode(fields[b"entry"], type=StoredChange) for _, fields in entries[:limit]]
        outcomes = await self._repository.redis.fields([(keys.outcomes, str(change.revision)) for change in changes])
        audited = [_audited(run, change, _outcome(stored)) for change, stored in zip(changes, outcomes, strict=True)]
        older = _next(entries, limit)
        whole = older is None and len(audited) < MAX_AUDIT  # nothing was trimmed yet
        chain = await asyncio.to_thread(_verified, run, audited, whole) if verify_chain and not cursor else None
        return AuditList(audited, chain, older, [] if cursor else run.lifecycle.changes)

    async def _last_outcomes(self, runs: Sequence[RunRecord]) -> list[Outcome | None]:
        fields = [(RunKeys(run.run_id).outcomes, str(run.desired_revision)) for run in runs]
        return [_outcome(stored) for stored in await self._repository.redis.fields(fields)]


def _listed(parameter: Parameter, at: int, newest: array[float] | None, peaks: Peaks, eps: float) -> ParameterView:
    """The parameter at place `at` of the table. newest: the newest row, [parameters, ROW_COLUMNS]."""
    numbers: dict[str, float | None] = {}
    if newest is not None:
        values = newest[at * len(ROW_COLUMNS) : (at + 1) * len(ROW_COLUMNS)]
        numbers = {name: _shown(value) for name, value in zip(ROW_COLUMNS, values, strict=True)}
        numbers["target"] = _target(numbers["norm_mean"], numbers["norm_rms"], eps)
        numbers["spike_ratio_max"] = float(peaks.ratios[at])
    return ParameterView(
        name=parameter.name,
        shape=list(parameter.shape),
        dtype=parameter.dtype,
        numel=parameter.numel,
        spikes=int(peaks.spikes[at]),
        **numbers,
    )


def _next(entries: Sequence[tuple[str, object]], limit: int) -> str | None:
    """Cursor of the page after the first `limit` entries; one more than these was read."""
    return entries[limit - 1][0] if len(entries) > limit else None


def _outcome(stored: bytes | None) -> Outcome | None:
    return None if stored is None else msgspec.json.decode(stored, type=Outcome)


def _audited(run: RunRecord, change: StoredChange, outcome: Outcome | None) -> AuditEntry:
    state = RevisionState.PENDING
    if outcome is not None:
        state = RevisionState.REJECTED if outcome.rejected else RevisionState.APPLIED
    elif change.revision == run.applied_revision:
        state = RevisionState.APPLIED  # its agent registered with it
    elif change.revision < run.desired_revision:
        state = RevisionState.SUPERSEDED
    applied = state is RevisionState.APPLIED
    step = outcome.step if outcome else run.applied_step
    return AuditEntry(
        **msgspec.structs.asdict(change),
        state=state,
        applied_step=step if applied else None,
        applied_time=outcome.time if applied and outcome else None,
        rejection=outcome.reason if outcome and outcome.rejected else "",
        remark=outcome.reason if outcome and not outcome.rejected else "",
    )


def _verified(run: RunRecord, entries: Sequence[AuditEntry], whole: bool) -> AuditChain:
    """Whether the entries form an intact chain that reaches the newest entry at the time when `run` was read."""
    chain = verify(run.run_id, entries, whole=whole)
    # An entry may have been added since: then it, or one after it, names that newest one as its previous.
    seen = {linked for entry in entries for linked in (entry.hash, entry.previous)}
    if chain.verified and run.audit_head and run.audit_head not in seen:
        return AuditChain(verified=False, head=chain.head)
    return chain


def _shown(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _target(mean: float | None, rms: float | None, eps: float) -> float | None:
    return None if mean is None or rms is None else target(mean, rms, eps)
