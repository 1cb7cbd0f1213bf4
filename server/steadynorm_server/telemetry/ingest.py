"""Plans what a telemetry batch adds to its run: history, events, reports, rule progress and top spike ratios."""

from __future__ import annotations

import math
import zlib
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from steadynorm_contract.codec import encode_json
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.settings import Mode
from steadynorm_contract.telemetry import (
    ROW_COLUMNS,
    SCALAR_COLUMNS,
    AgentCounters,
    NoteKind,
    ParameterRows,
    RevisionOutcome,
    StepScalars,
    TelemetryBatch,
    floats_from_bytes,
)
from steadynorm_server.automation import rule_evaluation
from steadynorm_server.runs import events
from steadynorm_server.runs.record import LATEST, Outcome, RunRecord, stalled_event
from steadynorm_server.telemetry import spike_ratios
from steadynorm_server.timeseries import rollups
from steadynorm_server.timeseries.blocks import Block
from steadynorm_server.timeseries.peaks import Peaks
from steadynorm_server.timeseries.rollups import Append, Read

_RATE_BATCHES = 9


@dataclass(slots=True)
class IngestPlan:
    """What a batch adds to its run."""

    time: float  # when it was planned, Unix seconds
    fields: dict[str, str | bytes]  # of the main hash
    events: list[Event]
    outcomes: dict[int, Outcome]  # by revision
    adopt: tuple[int, bytes, int] | None = None  # a revision that the agent has and Redis lost, settings, step
    peaks: Peaks | None = None  # None: unchanged
    appends: list[Append] = field(default_factory=list)


Names = Callable[[], Awaitable[Sequence[str]]]
"""Reads the parameter names, which few batches need."""


async def plan_batch(
    run: RunRecord,
    batch: TelemetryBatch,
    peaks: Peaks | None,
    names: Names,
    read: Read,
    now: float,
    stalled_after_s: float,
) -> IngestPlan:
    """What `batch`, already validated, adds to `run`; updates the progress and level states of `run`.

    peaks: as stored; needed only for a batch with rows. read: fetches history blocks that are not rolled up yet.
    """
    plan = IngestPlan(now, {}, [], {})
    _add_resumed(run, plan, now, stalled_after_s)
    _count_agent(run, batch, plan, now)
    _add_reports(run, batch, plan)
    _add_notes(run, batch, plan)
    if batch.scalars is not None and batch.scalars.steps:
        block = _scalar_block(batch.scalars)
        plan.appends += await rollups.plan(rollups.SCALARS, run.levels, block, read, delay=_delay(run.run_id))
        await _add_scalar_events(run, block, plan, names, batch.batch_ids)
    if batch.rows is not None and batch.rows.steps and batch.rows.parameters and peaks is not None:
        block = _row_block(batch.rows, batch.scalars, now)
        delay = _delay(run.run_id)
        plan.appends += await rollups.plan(rollups.ROWS, run.levels, block, read, run.applied.eps, delay)
        values = np.frombuffer(block.mean, np.float32).reshape(len(block.steps), -1, len(ROW_COLUMNS))
        if peaks.add(values[..., ROW_COLUMNS.index("spike_ratio")]):
            plan.peaks = peaks
    plan.fields |= {
        "sequence": str(batch.sequence),
        "last_seen": repr(now),
        "stalled": "",
        "progress": msgspec.json.encode(run.progress),
        "history": msgspec.json.encode(run.levels),
    }
    if batch.rows is not None:
        plan.fields |= spike_ratios.encode_top(batch.rows)
    if run.rules:
        plan.fields["rule_progress"] = rule_evaluation.evaluate(run, batch.scalars, now)
    return plan


def _delay(run_id: str) -> float:
    """A share of a tile that differs between runs and is the same in every process."""
    return zlib.crc32(run_id.encode()) / 2**32


def _add_resumed(run: RunRecord, plan: IngestPlan, now: float, stalled_after_s: float) -> None:
    silent_s = now - float(run.stalled or run.last_seen)
    if not run.stalled:
        if run.silent_s(now) <= stalled_after_s:
            return
        plan.events.append(stalled_event(run, stalled_after_s))  # the sweeper has not noticed it yet
    message = f"telemetry resumed after {silent_s:.0f} s."
    plan.events.append(Event(id="", kind=EventKind.RESUMED, step=run.step, time=now, message=message, value=silent_s))


def _count_agent(run: RunRecord, batch: TelemetryBatch, plan: IngestPlan, now: float) -> None:
    progress = run.progress
    if progress.incarnation != batch.incarnation:
        progress.past_dropped += progress.agent.dropped
        progress.past_errors += progress.agent.errors
        progress.incarnation, progress.step = batch.incarnation, run.registered_step
        progress.agent, progress.rate_points = AgentCounters(), []
    sending = batch.counters.sending_errors - progress.agent.sending_errors
    reported = any(note.kind is NoteKind.RANK_FAILED for note in batch.notes)  # the note names the rank
    if (new := batch.counters.errors - progress.agent.errors) > 0 and not reported:
        message = "the agent had an internal error and disabled itself; training continues without it. See its log."
        if sending >= new:
            message = (
                "the agent had an internal error while sending and dropped what it was about to send; the run is still "
                "stabilized and recorded. See its log."
            )
        step = max(batch.scalars.steps) if batch.scalars and batch.scalars.steps else progress.step
        plan.events.append(
            Event(id="", kind=EventKind.AGENT_ERROR, step=step, time=now, message=message, value=float(new))
        )
    progress.agent = batch.counters


def _add_notes(run: RunRecord, batch: TelemetryBatch, plan: IngestPlan) -> None:
    for note in batch.notes:
        run.progress.rank_mismatches += note.kind is NoteKind.RANK_MISMATCH
        plan.events.append(
            Event(
                id="",
                kind=EventKind(note.kind.value),
                step=note.step,
                time=note.time,
                message=note.message[:1000],
                value=float(note.rank),
            )
        )


def _add_reports(run: RunRecord, batch: TelemetryBatch, plan: IngestPlan) -> None:
    for report in batch.applied:
        rejected = report.outcome is RevisionOutcome.REJECTED
        plan.outcomes[report.revision] = Outcome(report.step, rejected, report.time, report.reason[:1000])
        settings = encode_json(report.settings)
        if rejected:
            message = f"the agent rejected revision {report.revision}: {report.reason[:1000] or 'no reason given'}"
            plan.events.append(
                Event(
                    id="",
                    kind=EventKind.REJECTED,
                    step=report.step,
                    time=report.time,
                    message=message,
                    value=float(report.revision),
                )
            )
            continue
        if report.revision >= run.applied_revision:
            run.applied_revision, run.applied_step, run.applied = report.revision, report.step, report.settings
            plan.fields |= {
                "applied_revision": str(report.revision),
                "applied_step": str(report.step),
                "applied": settings,
            }
        if report.revision > run.desired_revision:
            plan.adopt = (report.revision, settings, report.step)


def _in_stored_order(data: bytes, columns: Sequence[str], stored: Sequence[str]) -> array[float]:
    """Values row-major in the stored order of columns; NaN for a column that was not sent."""
    values = floats_from_bytes(data)
    if tuple(columns) == tuple(stored):
        return values
    rows = len(values) // len(columns) if columns else 0
    arranged = array("f", [math.nan]) * (rows * len(stored))
    for at, name in enumerate(stored):
        if name in columns:
            arranged[at :: len(stored)] = values[list(columns).index(name) :: len(columns)]
    return arranged


def _scalar_block(scalars: StepScalars) -> Block:
    values = _in_stored_order(scalars.data, scalars.columns, SCALAR_COLUMNS)
    if not scalars.columns:
        values = array("f", [math.nan]) * (len(scalars.steps) * len(SCALAR_COLUMNS))
    return Block.raw(len(SCALAR_COLUMNS), scalars.steps, scalars.time_values(), values)


def _row_block(rows: ParameterRows, scalars: StepScalars | None, now: float) -> Block:
    values = _in_stored_order(rows.data, rows.columns, ROW_COLUMNS)
    width = rows.parameters * len(ROW_COLUMNS)
    if not rows.columns:
        values = array("f", [math.nan]) * (len(rows.steps) * width)
    moments = dict(zip(scalars.steps, scalars.time_values(), strict=True)) if scalars else {}
    return Block.raw(width, rows.steps, (moments.get(step, now) for step in rows.steps), values)


async def _add_scalar_events(
    run: RunRecord, block: Block, plan: IngestPlan, names: Names, batch_ids: Mapping[int, str]
) -> None:
    progress, steps = run.progress, block.steps
    column = {name: block.mean[at :: block.width] for at, name in enumerate(SCALAR_COLUMNS)}
    scalars = events.Scalars(
        steps,
        block.times,
        *(column[name] for name in events.Scalars.__struct_fields__[2:]),
    )
    if run.applied.mode is not Mode.STABILIZE:
        # A small target throttles nothing in other modes, and a target that is not measured never recovers.
        scalars = msgspec.structs.replace(scalars, target_min=[math.nan] * len(steps))
        progress.signals.throttled = False
    if not events.is_quiet(progress.signals, scalars):
        known = await names()

        def name(index: float) -> str | None:
            return known[int(index)] if math.isfinite(index) and 0 <= index < len(known) else None

        plan.events += events.observe(progress.signals, scalars, name, batch_ids)
    progress.steps += len(steps)
    progress.spikes += sum(map(events.count, column["spikes"])) if any(column["spikes"]) else 0
    progress.nonfinite += sum(map(events.count, column["nonfinite"])) if any(column["nonfinite"]) else 0
    progress.first_step = min(steps) if progress.first_step is None else min(progress.first_step, min(steps))
    progress.last_step = max(steps) if progress.last_step is None else max(progress.last_step, max(steps))
    progress.step = steps[-1]
    for scalar in LATEST:
        newest = column[scalar][-1]
        if scalar == "loss":  # often logged less than every step
            newest = next((loss for loss in reversed(column["loss"]) if not math.isnan(loss)), math.nan)
            if math.isnan(newest):
                continue
        progress.latest[scalar] = newest if math.isfinite(newest) else None
    _update_step_rate(run, block)


def _update_step_rate(run: RunRecord, block: Block) -> None:
    points = run.progress.rate_points
    first, last = (block.times[0], block.steps[0]), (block.times[-1], block.steps[-1])
    if points and (first[1] <= points[-1][1] or first[0] < points[-1][0]):
        points.clear()  # back at a checkpoint, or a clock that was set
    if not points:
        points.append(first)
    points.append(last)
    del points[:-_RATE_BATCHES]
