"""What the server tells people: the answers of its GET routes and of PATCH settings, as JSON."""

from __future__ import annotations

import enum

import msgspec

from steadynorm_contract.presets import expand
from steadynorm_contract.records import AgentCounters
from steadynorm_contract.settings import FieldError, Settings

__all__ = [
    "UNSUPPORTED_VERSION",
    "Applied",
    "AuditChain",
    "AuditEntry",
    "AuditList",
    "Change",
    "DesiredView",
    "Event",
    "EventKind",
    "EventList",
    "Health",
    "Me",
    "ParameterList",
    "ParameterView",
    "Problem",
    "RevisionState",
    "RunCounters",
    "RunDetail",
    "RunList",
    "RunState",
    "RunSummary",
    "Series",
    "SeriesAnswer",
]


class RunState(enum.StrEnum):
    """Where a run is in its life. `stalled`: no telemetry for a while, though nobody said that it ended."""

    RUNNING = "running"
    STALLED = "stalled"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


class Health(enum.StrEnum):
    """How a run does, worst first. Judged from its recent events.

    Two kinds of silence: `disconnected` where the agent neither sends telemetry nor listens for settings, so that its
    process has gone or cannot reach the server; `stalled` where it still listens, but takes no steps.
    """

    NONFINITE = "nonfinite"
    SPIKING = "spiking"
    THROTTLED = "throttled"
    DISCONNECTED = "disconnected"
    STALLED = "stalled"
    CALM = "calm"


class RevisionState(enum.StrEnum):
    """Life of a revision: pending, then one of the others for good."""

    PENDING = "pending"
    APPLIED = "applied"
    SUPERSEDED = "superseded"
    REJECTED = "rejected"


class DesiredView(msgspec.Struct, frozen=True):
    """What operators want. `state` is the life of that revision."""

    revision: int
    settings: Settings
    state: RevisionState
    reason: str = ""  # why it was rejected


class Applied(msgspec.Struct, frozen=True):
    """What the run does, as the agent reported it: the settings of `revision` hold since `step`."""

    revision: int
    step: int
    settings: Settings


class RunCounters(msgspec.Struct, frozen=True):
    """Totals since the run began. `spikes` and `nonfinite` count (parameter, step) pairs; `dropped` counts records."""

    spikes: int = 0
    nonfinite: int = 0
    dropped: int = 0
    steps: int = 0  # steps recorded
    agent_errors: int = 0


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One row of GET /runs."""

    run_id: str
    name: str
    state: RunState
    health: Health
    step: int
    started: float  # Unix seconds
    last_seen: float  # Unix seconds of the last telemetry, or of the registration
    desired: DesiredView
    applied: Applied
    counters: RunCounters
    loss: float | None = None
    learning_rate: float | None = None
    raw_norm: float | None = None
    stabilized_norm: float | None = None
    target_min: float | None = None
    spike_ratio_max: float | None = None
    steps_per_s: float | None = None  # over the last batches
    connected: bool = True  # whether its agent was heard of lately, by telemetry or listening; true of ended runs
    tags: dict[str, str] = {}
    store_bytes: int = 0  # of the history, the parameter table and the peaks, without the store's own overhead


class RunDetail(RunSummary, frozen=True, kw_only=True):
    """GET /runs/{run_id}."""

    incarnation: int
    parameters: int
    framework: str = ""
    agent_version: str = ""
    world_size: int = 1
    host: str = ""
    allow: list[str] | None = None
    detail_every: int = 10
    agent: AgentCounters = msgspec.field(default_factory=AgentCounters)
    end_reason: str = ""


class RunList(msgspec.Struct, frozen=True):
    """GET /runs, newest first unless asked otherwise. `next`: cursor of the next page; null: this is the last."""

    runs: list[RunSummary]
    next: str | None = None


class Series(msgspec.Struct, frozen=True):
    """One series in buckets of consecutive steps. All lists have one entry a bucket.

    `step` is a bucket's first step and `count` the steps recorded in it. min, mean and max are over the finite values
    of the bucket, null where there is none.
    """

    step: list[int]
    count: list[int]
    min: list[float | None]
    mean: list[float | None]
    max: list[float | None]
    time: list[float] = []  # Unix seconds of each bucket's first step


class SeriesAnswer(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/series. Names: a scalar column, or raw_norm/blocks.0.weight."""

    series: dict[str, Series]


class ParameterView(msgspec.Struct, frozen=True, kw_only=True):
    """One row of GET /runs/{run_id}/parameters: the newest recorded row of a parameter. Numbers are null before it."""

    name: str
    shape: list[int]
    dtype: str
    numel: int
    raw_norm: float | None = None
    norm_mean: float | None = None
    norm_rms: float | None = None
    scale: float | None = None
    spike_ratio: float | None = None
    target: float | None = None
    spike_ratio_max: float | None = None  # the largest since the run began
    spikes: int = 0  # spikes seen in recorded rows


class ParameterList(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/parameters, in model order. `step` is the step of the newest rows; null before them.

    `next`: cursor of the parameters after these; null: there are none.
    """

    step: int | None
    parameters: list[ParameterView]
    next: str | None = None


class EventKind(enum.StrEnum):
    """What an event tells."""

    SPIKE = "spike"  # a norm above 10 times its previous RMS norm; value: the ratio
    NONFINITE = "nonfinite"  # a NaN or infinite gradient; value: how many parameters
    THROTTLED = "throttled"  # a target fell below 0.3; value: the target
    RECOVERED = "recovered"  # no target is below 0.3 any more; value: the smallest target
    STALLED = "stalled"  # no telemetry for a while; value: seconds
    RESUMED = "resumed"  # telemetry came again; value: seconds away
    STARTED = "started"  # an agent registered; value: the incarnation
    ENDED = "ended"  # finished, failed or stopped: see `message`
    REJECTED = "rejected"  # an agent refused a revision; value: the revision
    RANK_MISMATCH = "rank_mismatch"  # a rank differs from those that should be its equals; value: the rank
    RANK_FAILED = "rank_failed"  # a rank's agent failed, and all ranks turned theirs off; value: the rank
    ACTED = "acted"  # a schedule or a watch rule was carried out; value: the revision that it made
    AGENT_ERROR = "agent_error"  # the agent met an internal error: see `message`; value: how many


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of GET /runs/{run_id}/events."""

    id: str  # grows with time
    kind: EventKind
    step: int
    time: float  # Unix seconds
    message: str  # one sentence for people
    parameter: str | None = None
    value: float | None = None
    batch_id: str | None = None  # of a spike or a non-finite gradient: what the training loop called the step's data


class EventList(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/events, newest first. `next`: cursor of older ones; null: there are none."""

    events: list[Event]
    next: str | None = None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change of settings: who, when, before and after, why, and what came of it."""

    revision: int
    time: float  # Unix seconds
    actor: str  # name of the token that made the change
    reason: str
    before: dict[str, object]  # only the fields that changed
    after: dict[str, object]
    state: RevisionState
    applied_step: int | None = None
    applied_time: float | None = None  # Unix seconds, by the agent's clock
    rejection: str = ""
    hash: str = ""  # see `chain`; empty in entries from before there were hashes
    previous: str = ""  # hash of the entry before; empty in the first


class AuditChain(msgspec.Struct, frozen=True):
    """Whether the entries are what was written. `head`: hash of the newest good one; kept elsewhere, it is proof."""

    verified: bool
    head: str = ""
    broken_at: int | None = None  # revision of the first entry that is not what was written; null: one is missing


class AuditList(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/audit, newest first."""

    entries: list[AuditEntry]
    chain: AuditChain | None = None  # of the first page
    next: str | None = None  # cursor of older entries; null: there are none


class Change(msgspec.Struct, frozen=True):
    """Body of PATCH /runs/{run_id}/settings: only what changes, by name or as a `preset` of several, and why."""

    settings: dict[str, object]
    reason: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "settings", expand(self.settings))


class Me(msgspec.Struct, frozen=True):
    """GET /me: whose token this is. `roles`: agent, viewer, operator. `runs`: patterns of run names; null: all."""

    name: str
    roles: list[str]
    runs: list[str] | None = None


UNSUPPORTED_VERSION = "urn:steadynorm:problem:unsupported-version"
"""`type` of the problem that agent and server do not speak one schema version: whoever asked need not ask again."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as RFC 9457 problem JSON. `detail` says what to do; `errors` names fields and rules where it applies."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    instance: str | None = None  # the request's path
    errors: list[FieldError] | None = None
    request_id: str | None = None  # as in the answer's X-Request-ID and in the server's log
