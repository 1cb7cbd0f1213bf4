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
from steadynorm_contract.notes import Note
from steadynorm_contract.scalars import MAX_SCALARS
from steadynorm_contract.settings import Mode
from steadynorm_contract.telemetry import (
    ROW_COLUMNS,
    SCALAR_COLUMNS,
    AgentCounters,
    NoteKind,
    ParameterRows,
    RevisionOutcome,
    SpikeReference,
    StepScalars,
    TelemetryBatch,
    UserNote,
    floats_from_bytes,
)
from steadynorm_server.automation import rule_evaluation
from steadynorm_server.runs import events, notes
from steadynorm_server.runs.record import LATEST, Outcome, RunRecord, stalled_event
from steadynorm_server.telemetry import spike_ratios
from steadynorm_server.telemetry.rollback_requests import Request, asked_for, named, named_note
from steadynorm_server.telemetry.validation import MAX_CLAIMED_REVISION
from steadynorm_server.timeseries import rollups
from steadynorm_server.timeseries.blocks import Block
from steadynorm_server.timeseries.peaks import Peaks
from steadynorm_server.timeseries.rollups import Append, Read

_RATE_BATCHES = 9
_MAX_MESSAGE = 1000  # characters
_MAX_FINDINGS = 20


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
    notes: list[Note] = field(default_factory=list)

    @property
    def expected(self) -> dict[str, str]:
        """What this plan depends on beside `RunRecord.expected`: its notes come right after the run's newest."""
        return {"notes_head": self.notes[0].previous} if self.notes else {}


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
    asked: Mapping[int, Request],
) -> IngestPlan:
    """What `batch`, already validated, adds to `run`; updates the progress and level states of `run`.

    peaks: as stored; needed only for a batch with rows. read: fetches history blocks that are not rolled up yet. asked:
    who asked for the rollbacks that it tells of.
    """
    plan = IngestPlan(now, {}, [], {})
    _add_resumed(run, plan, now, stalled_after_s)
    _count_agent(run, batch, plan, now)
    _follow_giving_up(run, batch)
    _add_reports(run, batch, plan)
    _add_notes(run, batch, plan, asked)
    _add_user_notes(run, [named_note(note, asked) for note in batch.user_notes], plan)
    if batch.scalars is not None and batch.scalars.steps:
        block = _scalar_block(batch.scalars)
        plan.appends += await rollups.plan(rollups.SCALARS, run.levels, block, read, delay=_delay(run.run_id))
        await _add_scalar_events(run, block, plan, names, batch.batch_ids)
    logged = await _add_logged(run, batch, plan, read, now)
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
        plan.fields["rule_progress"] = rule_evaluation.evaluate(run, batch.scalars, logged, now)
    return plan


async def _add_logged(run: RunRecord, batch: TelemetryBatch, plan: IngestPlan, read: Read, now: float) -> Block | None:
    """What the loop logged under names of its own, as one block; None where there is nothing."""
    if not batch.logged and not batch.described:
        return None
    known, omitted = run.logged, run.logged.omitted
    known.describe(batch.described)
    block = known.add(batch.logged)
    plan.fields["scalars"] = msgspec.json.encode(known)
    if known.omitted and not omitted:
        message = f"more than {MAX_SCALARS} names were logged in this run: values of further ones are not stored."
        plan.events.append(events.new_event(EventKind.FINDING, run.step, now, message))
    if block is not None:
        steps, progress = block.steps, run.progress
        progress.first_step = min(steps) if progress.first_step is None else min(progress.first_step, min(steps))
        progress.last_step = max(steps) if progress.last_step is None else max(progress.last_step, max(steps))
        plan.appends += await rollups.plan(rollups.LOGGED, run.levels, block, read, delay=_delay(run.run_id))
    return block


def _delay(run_id: str) -> float:
    """A share of a tile that differs between runs and is the same in every process."""
    return zlib.crc32(run_id.encode()) / 2**32


def _add_resumed(run: RunRecord, plan: IngestPlan, now: float, stalled_after_s: float) -> None:
    silent_s = now - float(run.stalled or run.last_seen)
    if not run.stalled:
        if not run.is_stalled(now, stalled_after_s):
            return
        plan.events.append(stalled_event(run, stalled_after_s))  # the sweeper has not noticed it yet
    message = f"telemetry resumed after {silent_s:.0f} s."
    plan.events.append(events.new_event(EventKind.RESUMED, run.step, now, message, silent_s))


def _count_agent(run: RunRecord, batch: TelemetryBatch, plan: IngestPlan, now: float) -> None:
    progress = run.progress
    if progress.incarnation != batch.incarnation:
        progress.past_dropped += progress.agent.dropped
        progress.past_errors += progress.agent.errors
        progress.past_sinks_dropped += progress.agent.sinks_dropped
        progress.incarnation, progress.step = batch.incarnation, run.registered_step
        progress.agent, progress.rate_points = AgentCounters(), []
        progress.self_check, progress.findings, progress.given_up = "", [], None
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
        plan.events.append(events.new_event(EventKind.AGENT_ERROR, step, now, message, float(new)))
    progress.agent, progress.recovery = batch.counters, batch.recovery


def _follow_giving_up(run: RunRecord, batch: TelemetryBatch) -> None:
    """Whether rollbacks no longer help it. Before its reports are taken over: its own pause has the revision it had."""
    progress = run.progress
    progress.given_up = next(
        (note.time for note in reversed(batch.notes) if note.kind is NoteKind.UNRECOVERABLE), progress.given_up
    )
    for report in batch.applied:
        changed = report.outcome is RevisionOutcome.APPLIED and report.revision > run.applied_revision
        if progress.given_up is not None and changed and report.time > progress.given_up:
            progress.given_up = None


def _add_notes(run: RunRecord, batch: TelemetryBatch, plan: IngestPlan, asked: Mapping[int, Request]) -> None:
    for note in batch.notes:
        if note.kind is NoteKind.SELF_CHECK:
            run.progress.self_check = note.message[:_MAX_MESSAGE]
            continue
        if note.kind is NoteKind.FINDING:
            findings = [*run.progress.findings, note.message[:_MAX_MESSAGE]]
            run.progress.findings = findings[-_MAX_FINDINGS:]
        run.progress.rollbacks += note.kind is NoteKind.ROLLBACK
        run.progress.rank_mismatches += note.kind is NoteKind.RANK_MISMATCH
        kind, message = EventKind(note.kind.value), named(note.message, asked)[:_MAX_MESSAGE]
        value = float(note.rank) if note.value is None else note.value
        request = asked.get(asked_with) if (asked_with := asked_for(note)) is not None else None
        event = events.new_event(kind, note.step, note.time, message, value)
        plan.events.append(event if request is None else msgspec.structs.replace(event, actor=request.actor))


def _add_user_notes(run: RunRecord, said: Sequence[UserNote], plan: IngestPlan) -> None:
    if not said:
        return
    plan.notes, full = notes.from_agent(run, said)
    if plan.notes:
        plan.fields["notes_head"] = plan.notes[-1].hash
    if full:
        message = f"agent.note() was called more than {notes.MAX_AGENT_NOTES} times: later notes are not stored."
        step, time = said[-1].step, said[-1].time
        plan.events.append(events.new_event(EventKind.FINDING, step, time, message))


def _add_reports(run: RunRecord, batch: TelemetryBatch, plan: IngestPlan) -> None:
    for report in batch.applied:
        rejected = report.outcome is RevisionOutcome.REJECTED
        plan.outcomes[report.revision] = Outcome(report.step, rejected, report.time, report.reason[:1000])
        settings = encode_json(report.settings)
        if rejected:
            run.progress.rejected_revision = max(run.progress.rejected_revision, report.revision)
            message = f"the agent rejected revision {report.revision}: {report.reason[:1000] or 'no reason given'}"
            revision = float(report.revision)
            plan.events.append(events.new_event(EventKind.REJECTED, report.step, report.time, message, revision))
            continue
        if report.revision >= run.applied_revision:
            run.applied_revision, run.applied_step, run.applied = report.revision, report.step, report.settings
            plan.fields |= {
                "applied_revision": str(report.revision),
                "applied_step": str(report.step),
                "applied": settings,
            }
        if run.desired_revision < report.revision <= MAX_CLAIMED_REVISION:
            plan.adopt = (report.revision, settings, report.step)


def _in_stored_order(data: bytes, columns: Sequence[str], stored: Sequence[str], rows: int) -> array[float]:
    """Values row-major in the stored order of columns; NaN for a column that was not sent."""
    values = floats_from_bytes(data)
    if tuple(columns) == tuple(stored):
        return values
    arranged = array("f", [math.nan]) * (rows * len(stored))
    for at, name in enumerate(stored):
        if name in columns:
            arranged[at :: len(stored)] = values[list(columns).index(name) :: len(columns)]
    return arranged


def _scalar_block(scalars: StepScalars) -> Block:
    values = _in_stored_order(scalars.data, scalars.columns, SCALAR_COLUMNS, len(scalars.steps))
    return Block.raw(len(SCALAR_COLUMNS), scalars.steps, scalars.time_values(), values)


def _row_block(rows: ParameterRows, scalars: StepScalars | None, now: float) -> Block:
    values = _in_stored_order(rows.data, rows.columns, ROW_COLUMNS, len(rows.steps) * rows.parameters)
    moments = dict(zip(scalars.steps, scalars.time_values(), strict=True)) if scalars else {}
    return Block.raw(
        rows.parameters * len(ROW_COLUMNS), rows.steps, (moments.get(step, now) for step in rows.steps), values
    )


async def _add_scalar_events(
    run: RunRecord, block: Block, plan: IngestPlan, names: Names, batch_ids: Mapping[int, str]
) -> None:
    progress, steps = run.progress, block.steps
    column = {name: block.mean[at :: block.width] for at, name in enumerate(SCALAR_COLUMNS)}
    scalars = events.Scalars(steps, block.times, *(column[name] for name in events.Scalars.__struct_fields__[2:]))
    attributed = run.info.spike_reference is SpikeReference.BASELINE
    if run.applied.mode is not Mode.STABILIZE:
        # A small target throttles nothing in other modes, and a target that is not measured never recovers.
        count = len(steps)
        scalars = msgspec.structs.replace(scalars, target_min=[math.nan] * count, throttled=[0.0] * count)
        progress.signals.throttled = progress.signals.falling = False
        progress.signals.small_since = None
    if not events.is_quiet(progress.signals, scalars):
        known = await names()

        def name(index: float) -> str | None:
            return known[int(index)] if math.isfinite(index) and 0 <= index < len(known) else None

        plan.events += [
            _name_rank(event, run.info.world_size)
            for event in events.observe(progress.signals, scalars, name, batch_ids, run.applied, attributed=attributed)
        ]
    progress.steps += len(steps)
    progress.spikes += sum(map(events.count, column["spikes"])) if any(column["spikes"]) else 0
    progress.nonfinite += sum(map(events.count, column["nonfinite"])) if any(column["nonfinite"]) else 0
    progress.faded += sum(map(events.count, column["faded"]))
    progress.nonfinite_losses += sum(map(events.count, column["loss_nonfinite"]))
    progress.first_step = min(steps) if progress.first_step is None else min(progress.first_step, min(steps))
    progress.last_step = max(steps) if progress.last_step is None else max(progress.last_step, max(steps))
    progress.step = steps[-1]
    for scalar in LATEST:
        newest = column[scalar][-1]
        if scalar == "loss":  # often logged less than every step
            logged = (
                loss
                for loss, is_nonfinite in zip(reversed(column["loss"]), reversed(column["loss_nonfinite"]), strict=True)
                if is_nonfinite == 1 or not math.isnan(loss)
            )
            if (found := next(logged, None)) is None:
                continue
            newest = found
        progress.latest[scalar] = newest if math.isfinite(newest) else None
    _update_step_rate(run, block)


def _name_rank(event: Event, world_size: int) -> Event:
    """With several ranks: whose batch it is, since the others' may be what spiked."""
    if event.batch_id is None or world_size < 2:
        return event
    return msgspec.structs.replace(event, message=f"{event.message} Its batch_id is that of rank 0 of {world_size}.")


def _update_step_rate(run: RunRecord, block: Block) -> None:
    points = run.progress.rate_points
    first, last = (block.times[0], block.steps[0]), (block.times[-1], block.steps[-1])
    if points and (first[1] <= points[-1][1] or first[0] < points[-1][0]):
        points.clear()  # back at a checkpoint, or a clock that was set
    if not points:
        points.append(first)
    points.append(last)
    del points[:-_RATE_BATCHES]
