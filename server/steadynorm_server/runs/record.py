"""The main hash of a run, decoded, and its views for the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.runs import Applied, DesiredView, RevisionState, RunCounters, RunDetail, RunState, RunSummary
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import AgentCounters, Desired
from steadynorm_server.runs.events import Signals, health
from steadynorm_server.timeseries.rollups import ROWS, SCALARS, Levels

LATEST = ("loss", "learning_rate", "raw_norm", "stabilized_norm", "target_min", "spike_ratio_max")
"""Scalars whose newest value is shown with a run."""


class Info(msgspec.Struct):
    """What an agent reported about itself when it registered."""

    parameters: int = 0
    framework: str = ""
    agent_version: str = ""
    world_size: int = 1
    host: str = ""
    tags: dict[str, str] = {}
    allow: list[str] | None = None
    detail_every: int = 10


class Progress(msgspec.Struct):
    """Totals of the telemetry so far. Written only by telemetry commits, as a whole."""

    incarnation: int = 0  # of the batch that came last
    step: int = 0
    first_step: int | None = None  # smallest and largest recorded
    last_step: int | None = None
    steps: int = 0  # recorded
    spikes: int = 0
    nonfinite: int = 0
    rank_mismatches: int = 0
    agent: AgentCounters = msgspec.field(default_factory=AgentCounters)
    past_dropped: int = 0  # by former incarnations
    past_errors: int = 0
    latest: dict[str, float | None] = {}
    rate_points: list[tuple[float, int]] = []  # (Unix seconds, step) at the ends of the last batches
    signals: Signals = msgspec.field(default_factory=Signals)


class Outcome(msgspec.Struct):
    """An agent's report on one revision, without the settings, which the audit has."""

    step: int
    rejected: bool
    time: float
    reason: str = ""


@dataclass(slots=True)
class RunRecord:
    """The hash, decoded. Times are Unix seconds by the server's clock."""

    run_id: str
    name: str
    digest: str  # of the parameter table
    info: Info
    incarnation: int
    sequence: int  # last one stored of this incarnation
    state: str  # running, or how it ended
    end_reason: str
    started: float
    last_seen: float
    poll_expires_at: float  # until when its agent polls for changed settings; 0: it never did
    stalled: str  # last_seen at the time when the silence was noticed; empty: not noticed
    registered_step: int
    desired_revision: int
    desired: Settings
    applied_revision: int
    applied_step: int
    applied: Settings
    progress: Progress
    levels: Levels  # state of the history's levels
    history_bytes: int  # of the history's blocks
    store_bytes: int  # with the parameter table and the peaks, without the overhead of Redis
    audit_head: str  # hash of the newest audit entry; empty without one
    trimmed: dict[str, int]  # per level of the history the last step that may have been dropped
    ratios: bytes  # see `spike_ratios`; empty before the first row
    automation_version: str = ""  # how often schedules, rules and retention were written; empty: never
    schedules: bytes = b""  # see `automation`; empty without any
    rules: bytes = b""
    rule_progress: bytes = b""
    retention: bytes = b""  # see `retention.policy`; empty where nothing was set for the run
    rollback_step: int = -1  # step and time at which its agent last knew of changes that Redis had lost
    rollback_time: float = 0.0

    @staticmethod
    def decode(run_id: str, stored: Mapping[bytes, bytes]) -> RunRecord:
        """From HGETALL."""
        text = {key.decode(): value for key, value in stored.items()}
        info = msgspec.json.decode(text["info"], type=Info)
        history = sum(int(text.get(f"bytes:{level.name}", 0)) for scheme in (SCALARS, ROWS) for level in scheme.levels)
        return RunRecord(
            run_id=run_id,
            name=text["name"].decode(),
            digest=text["digest"].decode(),
            info=info,
            incarnation=int(text["incarnation"]),
            sequence=int(text["sequence"]),
            state=text["state"].decode(),
            end_reason=text["end_reason"].decode(),
            started=float(text["started"]),
            last_seen=float(text["last_seen"]),
            poll_expires_at=float(text.get("poll_expires_at", 0.0)),
            stalled=text["stalled"].decode(),
            registered_step=int(text["registered_step"]),
            desired_revision=int(text["desired_revision"]),
            desired=msgspec.json.decode(text["desired"], type=Settings),
            applied_revision=int(text["applied_revision"]),
            applied_step=int(text["applied_step"]),
            applied=msgspec.json.decode(text["applied"], type=Settings),
            progress=msgspec.json.decode(text.get("progress", b"{}"), type=Progress),
            levels=msgspec.json.decode(text.get("history", b"{}"), type=Levels),
            history_bytes=history,
            store_bytes=history + int(text.get("bytes:parameters", 0)) + 8 * info.parameters,
            audit_head=text.get("audit_head", b"").decode(),
            trimmed={key[8:]: int(value) for key, value in text.items() if key.startswith("trimmed:")},
            ratios=text.get("ratios", b""),
            automation_version=text.get("automation_version", b"").decode(),
            schedules=text.get("schedules", b""),
            rules=text.get("rules", b""),
            rule_progress=text.get("rule_progress", b""),
            retention=text.get("retention", b""),
            rollback_step=int(text.get("rollback_step", -1)),
            rollback_time=float(text.get("rollback_time", 0.0)),
        )

    def expected(self) -> dict[str, str]:
        """What a telemetry commit compares with Redis: fields that change with anything that its plan depends on.
        `last_seen` distinguishes a Redis that was restored from a backup."""
        return {
            "incarnation": str(self.incarnation),
            "sequence": str(self.sequence),
            "state": self.state,
            "last_seen": repr(self.last_seen),
            "stalled": self.stalled,
            "automation_version": self.automation_version,
        }

    @property
    def is_live(self) -> bool:
        """Whether it has not ended; it may be silent."""
        return self.state == RunState.RUNNING

    @property
    def step(self) -> int:
        """The step of its last record, or at which its present agent started."""
        return self.progress.step if self.progress.incarnation == self.incarnation else self.registered_step

    def silent_s(self, now: float) -> float:
        """Seconds since its last telemetry; 0 for an ended run."""
        return max(0.0, now - self.last_seen) if self.is_live else 0.0

    def connected(self, now: float, within_s: float) -> bool:
        """Whether its agent sent telemetry or polled for settings in the last `within_s` seconds."""
        return now - max(self.last_seen, self.poll_expires_at) <= within_s

    def desired_settings(self) -> Desired:
        """The desired settings as agents get them."""
        return Desired(self.desired_revision, self.desired)


def summary(run: RunRecord, outcome: Outcome | None, now: float, stalled_after_s: float) -> RunSummary:
    """The row of GET /runs. outcome: the agent's report on the desired revision."""
    return RunSummary(**_fields(run, outcome, now, stalled_after_s))


def detail(run: RunRecord, outcome: Outcome | None, now: float, stalled_after_s: float) -> RunDetail:
    """GET /runs/{run_id}."""
    info = run.info
    return RunDetail(
        **_fields(run, outcome, now, stalled_after_s),
        incarnation=run.incarnation,
        parameters=info.parameters,
        framework=info.framework,
        agent_version=info.agent_version,
        world_size=info.world_size,
        host=info.host,
        allow=info.allow,
        detail_every=info.detail_every,
        agent=run.progress.agent if run.progress.incarnation == run.incarnation else AgentCounters(),
        end_reason=run.end_reason,
    )


def _fields(run: RunRecord, outcome: Outcome | None, now: float, stalled_after_s: float) -> dict[str, Any]:
    progress = run.progress
    stalled = run.silent_s(now) > stalled_after_s
    connected = not stalled or run.connected(now, stalled_after_s)
    return {
        "run_id": run.run_id,
        "name": run.name,
        "state": RunState.STALLED if stalled else RunState(run.state),
        "health": health(progress.signals, run.step, stalled, connected),
        "step": run.step,
        "started": run.started,
        "last_seen": run.last_seen,
        "desired": _desired(run, outcome),
        "applied": Applied(run.applied_revision, run.applied_step, run.applied),
        "counters": RunCounters(
            spikes=progress.spikes,
            nonfinite=progress.nonfinite,
            dropped=progress.past_dropped + progress.agent.dropped,
            steps=progress.steps,
            agent_errors=progress.past_errors + progress.agent.errors,
        ),
        "steps_per_s": _steps_per_s(progress),
        "connected": connected,
        "tags": run.info.tags,
        "store_bytes": run.store_bytes,
        **progress.latest,
    }


def _desired(run: RunRecord, outcome: Outcome | None) -> DesiredView:
    state, reason = RevisionState.PENDING, ""
    if run.applied_revision == run.desired_revision:
        state = RevisionState.APPLIED
    elif outcome is not None and outcome.rejected:
        state, reason = RevisionState.REJECTED, outcome.reason
    return DesiredView(run.desired_revision, run.desired, state, reason)


def _steps_per_s(progress: Progress) -> float | None:
    if len(progress.rate_points) < 2:
        return None
    (then, first), (now, last) = progress.rate_points[0], progress.rate_points[-1]
    return (last - first) / (now - then) if now > then else None


class StoredChange(msgspec.Struct):
    """An audit entry as it is stored; its outcome is derived when it is read."""

    revision: int
    time: float
    actor: str
    reason: str
    before: dict[str, object]
    after: dict[str, object]
    hash: str = ""
    previous: str = ""


def stalled_event(run: RunRecord, stalled_after_s: float) -> Event:
    """The event of a run that fell silent."""
    message = f"no telemetry for {stalled_after_s:g} s; the run was not closed."
    moment = run.last_seen + stalled_after_s
    return Event(id="", kind=EventKind.STALLED, step=run.step, time=moment, message=message, value=stalled_after_s)
