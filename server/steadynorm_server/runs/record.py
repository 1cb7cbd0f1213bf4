"""The main hash of a run, decoded, and its views for the API."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec

from steadynorm_contract.audit import SettingsChange
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.incidents import IncidentStatus
from steadynorm_contract.knobs import Knob
from steadynorm_contract.runs import Applied, DesiredView, RevisionState, RunCounters, RunDetail, RunState, RunSummary
from steadynorm_contract.settings import Settings, with_knobs
from steadynorm_contract.telemetry import AgentCounters, Desired, RecoveryStatus, SpikeReference
from steadynorm_server.runs.events import Signals, health, new_event
from steadynorm_server.runs.lifecycle import Lifecycle
from steadynorm_server.runs.logged import LoggedScalars
from steadynorm_server.timeseries.rollups import SCHEMES, Levels

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
    detail_every: int = 10  # as attached
    spike_reference: SpikeReference = SpikeReference.RMS
    knobs: list[Knob] | None = None  # None: its agent is older than those and the other LATER_SETTINGS


class Progress(msgspec.Struct):
    """Totals of the telemetry so far. Written only by telemetry commits, as a whole."""

    incarnation: int = 0  # of the batch that came last
    step: int = 0
    first_step: int | None = None  # smallest and largest recorded
    last_step: int | None = None
    steps: int = 0  # recorded
    spikes: int = 0
    nonfinite: int = 0
    nonfinite_losses: int = 0
    faded: int = 0  # steps of parameters that `spike_fade` reduced
    rank_mismatches: int = 0
    agent: AgentCounters = msgspec.field(default_factory=AgentCounters)
    past_dropped: int = 0  # by former incarnations
    past_sinks_dropped: int = 0
    past_errors: int = 0
    latest: dict[str, float | None] = {}
    rate_points: list[tuple[float, int]] = []  # (Unix seconds, step) at the ends of the last batches
    signals: Signals = msgspec.field(default_factory=Signals)
    self_check: str = ""  # of the present incarnation
    findings: list[str] = []
    recovery: RecoveryStatus | None = None  # as the agent reported it last
    rollbacks: int = 0
    given_up: float | None = None  # when rollbacks no longer helped (Unix seconds), until it is changed or restarted
    user_notes: int = 0  # of `agent.note()`; see `notes.MAX_AGENT_NOTES`
    rejected_revision: int = 0  # the newest that its agent rejected


class Outcome(msgspec.Struct):
    """An agent's report on one revision, without the settings, which the audit has."""

    step: int
    rejected: bool
    time: float
    reason: str = ""


_READERS: dict[str, Callable[[bytes], Any]] = {
    **dict.fromkeys(
        ("name", "digest", "state", "end_reason", "stalled", "audit_head", "notes_head", "automation_version"),
        bytes.decode,
    ),
    **dict.fromkeys(("incarnation", "sequence", "registered_step", "rollback_step"), int),
    **dict.fromkeys(("desired_revision", "applied_revision", "applied_step"), int),
    **dict.fromkeys(("started", "last_seen", "poll_expires_at", "rollback_time"), float),
    **dict.fromkeys(
        ("ratios", "scalars", "schedules", "proposals", "rules", "rule_progress", "retention", "incidents"), bytes
    ),
    **dict.fromkeys(("desired", "applied"), msgspec.json.Decoder(Settings).decode),
    "progress": msgspec.json.Decoder(Progress).decode,
    "lifecycle": msgspec.json.Decoder(Lifecycle).decode,
}
"""How the hash's fields are read that a RunRecord has under the same name."""


@dataclass(slots=True)
class RunRecord:
    """The hash, decoded. Times are Unix seconds by the server's clock."""

    run_id: str
    name: str  # the agent's, by which tokens are bound to runs; people see `title`
    digest: str  # of the parameter table
    info: Info
    incarnation: int
    sequence: int  # last one stored of this incarnation
    state: str  # running, or how it ended
    end_reason: str
    started: float
    last_seen: float
    stalled: str  # last_seen at the time when the silence was noticed; empty: not noticed
    registered_step: int
    desired_revision: int
    desired: Settings
    applied_revision: int
    applied_step: int
    applied: Settings
    levels: Levels  # state of the history's levels
    history_bytes: int  # of the history's blocks
    redis_bytes: int  # with the parameter table and the peaks, without the overhead of Redis
    trimmed: dict[str, int]  # per level of the history the last step that may have been dropped
    progress: Progress = field(default_factory=Progress)
    poll_expires_at: float = 0.0  # until when its agent polls for changed settings; 0: it never did
    audit_head: str = ""  # hash of the newest audit entry; empty without one
    notes_head: str = ""  # hash of the newest note; empty without one
    incidents: bytes = b""  # see `incident_states`; empty before one is taken
    ratios: bytes = b""  # see `spike_ratios`; empty before the first row
    scalars: bytes = b""  # see `LoggedScalars`; empty before one is logged
    automation_version: str = ""  # how often schedules, rules, retention and lifecycle were written; empty: never
    schedules: bytes = b""  # see `automation`; empty without any
    proposals: bytes = b""  # see `settings.proposals`
    rules: bytes = b""
    rule_progress: bytes = b""
    retention: bytes = b""  # see `retention.policy`; empty where nothing was set for the run
    rollback_step: int = -1  # step and time at which its agent last knew of changes that Redis had lost
    rollback_time: float = 0.0
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    stored_desired: bytes = b""  # `desired` as it was read
    _logged: LoggedScalars | None = None

    @classmethod
    def decode(cls, run_id: str, stored: Mapping[bytes, bytes]) -> Self:
        """From HGETALL."""
        text = {key.decode(): value for key, value in stored.items()}
        info = msgspec.json.decode(text["info"], type=Info)
        history = sum(int(text.get(f"bytes:{level.name}", 0)) for scheme in SCHEMES for level in scheme.levels)
        run = cls(
            run_id=run_id,
            info=info,
            levels=msgspec.json.decode(text.get("history", b"{}"), type=Levels),
            history_bytes=history,
            redis_bytes=history + int(text.get("bytes:parameters", 0)) + 8 * info.parameters,
            stored_desired=text["desired"],
            trimmed={key[8:]: int(value) for key, value in text.items() if key.startswith("trimmed:")},
            **{name: read(text[name]) for name, read in _READERS.items() if name in text},
        )
        if info.knobs is not None:  # a program that went on with the run may declare others
            run.applied = with_knobs(run.applied, info.knobs)
            run.desired = with_knobs(run.desired, info.knobs, run.applied.knobs)
        return run

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

    def audit_heads(self) -> dict[str, str]:
        """The newest hash of each of its chains; empty where a chain has no entry."""
        changes = self.lifecycle.changes
        return {
            "audit_head": self.audit_head,
            "lifecycle_head": changes[0].hash if changes else "",
            "notes_head": self.notes_head,
        }

    @property
    def logged(self) -> LoggedScalars:
        """The scalars that its loop logs under names of its own. Decoded when first asked for: lists do not."""
        if self._logged is None:
            self._logged = msgspec.json.decode(self.scalars, type=LoggedScalars) if self.scalars else LoggedScalars()
        return self._logged

    @property
    def is_live(self) -> bool:
        """Whether it has not ended; it may be silent."""
        return self.state == RunState.RUNNING

    @property
    def title(self) -> str:
        """The name that people see."""
        return self.lifecycle.title or self.name

    @property
    def heard_at(self) -> float:
        """The last sign of life: telemetry or a poll for settings; of an ended run its end."""
        return max(self.last_seen, self.poll_expires_at) if self.is_live else self.last_seen

    @property
    def archived_at(self) -> float | None:
        """When it was archived, unless it was heard from since."""
        at = self.lifecycle.archived_at
        return at if at is not None and at >= self.heard_at else None

    @property
    def removes_at(self) -> float | None:
        """When a deleted run is removed, unless it was heard from since its deletion."""
        at = self.lifecycle.deleted_at
        return self.lifecycle.removes_at if at is not None and at >= self.heard_at else None

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

    def listening(self, now: float, within_s: float) -> bool:
        """Whether its agent polled for settings in the last `within_s` seconds."""
        return now - self.poll_expires_at <= within_s

    def is_stalled(self, now: float, within_s: float) -> bool:
        """Whether its silence is worth an event: of an agent that does not listen either after `within_s` seconds, of
        one that does (a long step, an evaluation, a hang) after sixty times that, of a paused one never."""
        silent_s = self.silent_s(now)
        if not self.listening(now, within_s):
            return silent_s > within_s
        return silent_s > 60 * within_s and not self.applied.paused

    def incident_states(self) -> list[IncidentStatus]:
        """The latest incidents that somebody took or closed, newest first."""
        return msgspec.json.decode(self.incidents, type=list[IncidentStatus]) if self.incidents else []

    def desired_settings(self) -> Desired:
        """The desired settings as agents get them."""
        return Desired(self.desired_revision, self.desired)


def summary(run: RunRecord, outcome: Outcome | None, now: float, stalled_after_s: float) -> RunSummary:
    """The row of GET /runs. outcome: the agent's report on the desired revision."""
    return RunSummary(**_fields(run, outcome, now, stalled_after_s))


def detail(run: RunRecord, outcome: Outcome | None, now: float, stalled_after_s: float) -> RunDetail:
    """GET /runs/{run_id}."""
    return RunDetail(
        **_fields(run, outcome, now, stalled_after_s) | msgspec.structs.asdict(run.info) | _detail_every(run),
        incarnation=run.incarnation,
        agent=run.progress.agent if run.progress.incarnation == run.incarnation else AgentCounters(),
        end_reason=run.end_reason,
        self_check=run.progress.self_check,
        findings=run.progress.findings,
        recovery=run.progress.recovery,
        rollbacks=run.progress.rollbacks,
        scalars=run.logged.views(),
        scalars_omitted=run.logged.omitted,
    )


def _detail_every(run: RunRecord) -> dict[str, int]:
    """An agent of before reports it only as attached."""
    return {} if run.info.knobs is None else {"detail_every": run.applied.detail_every}


def _fields(run: RunRecord, outcome: Outcome | None, now: float, stalled_after_s: float) -> dict[str, Any]:
    progress = run.progress
    stalled = run.silent_s(now) > stalled_after_s
    connected = not stalled or run.connected(now, stalled_after_s)
    return {
        "run_id": run.run_id,
        "name": run.title,
        "registered_name": run.name if run.title != run.name else "",
        "archived": run.archived_at,
        "deletes_at": run.removes_at,
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
            nonfinite_losses=progress.nonfinite_losses,
        ),
        "steps_per_s": step_rate(progress.rate_points),
        "connected": connected,
        "tags": run.info.tags,
        "incidents": run.incident_states(),
        "redis_bytes": run.redis_bytes,
        **progress.latest,
    }


def _desired(run: RunRecord, outcome: Outcome | None) -> DesiredView:
    state, reason = RevisionState.PENDING, ""
    if run.applied_revision == run.desired_revision:
        state, reason = RevisionState.APPLIED, outcome.reason if outcome else ""
    elif outcome is not None and outcome.rejected:
        state, reason = RevisionState.REJECTED, outcome.reason
    return DesiredView(run.desired_revision, run.desired, state, reason)


def step_rate(points: Sequence[tuple[float, int]]) -> float | None:
    """Steps a second between the first and the last of (Unix seconds, step). None: not known."""
    if len(points) < 2:
        return None
    (then, first), (now, last) = points[0], points[-1]
    return (last - first) / (now - then) if now > then else None


class StoredChange(SettingsChange, frozen=True, kw_only=True):
    """An audit entry as it is stored; its outcome is derived when it is read."""

    hash: str = ""
    previous: str = ""


def stalled_event(run: RunRecord, stalled_after_s: float) -> Event:
    """The event of a run that fell silent."""
    message = f"no telemetry for {stalled_after_s:g} s; the run was not closed."
    return new_event(EventKind.STALLED, run.step, run.last_seen + stalled_after_s, message, stalled_after_s)
