"""A run as the server reports it: state, health, desired and applied settings, counters."""

import enum

import msgspec

from steadynorm_contract.incidents import IncidentStatus
from steadynorm_contract.knobs import Knob
from steadynorm_contract.lifecycle import Visibility
from steadynorm_contract.scalars import ScalarView
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import AgentCounters, Desired, RecoveryStatus, SpikeReference

__all__ = [
    "Applied",
    "DesiredView",
    "Health",
    "RevisionState",
    "RunCounters",
    "RunDetail",
    "RunList",
    "RunState",
    "RunSummary",
]


class RunState(enum.StrEnum):
    """Life cycle of a run. `stalled`: no telemetry for a while, and the run was not closed."""

    RUNNING = "running"
    STALLED = "stalled"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_live(self) -> bool:
        """Whether the run has not ended: running or stalled."""
        return self in (RunState.RUNNING, RunState.STALLED)


class Health(enum.StrEnum):
    """A run's health by its recent events, worst first.

    `disconnected`: the agent neither sends telemetry nor polls for settings, so its process is gone or cannot reach the
    server. `stalled`: it still polls, but takes no steps.
    """

    NONFINITE = "nonfinite"
    SPIKING = "spiking"
    THROTTLED = "throttled"
    DISCONNECTED = "disconnected"
    STALLED = "stalled"
    CALM = "calm"


class RevisionState(enum.StrEnum):
    """Life cycle of a revision: pending, then one of the others, which are final."""

    PENDING = "pending"
    APPLIED = "applied"
    SUPERSEDED = "superseded"
    REJECTED = "rejected"


class DesiredView(Desired, frozen=True):
    """The desired settings. `state` is that of their revision."""

    state: RevisionState
    reason: str = ""  # why it was rejected, or what the agent says of it beside that it was applied


class Applied(msgspec.Struct, frozen=True):
    """The applied settings as the agent reported them: those of `revision`, in force since `step`."""

    revision: int
    step: int
    settings: Settings


class RunCounters(msgspec.Struct, frozen=True):
    """Totals since the run began. `spikes` and `nonfinite` count (parameter, step) pairs; `dropped` counts records;
    `nonfinite_losses` counts steps."""

    spikes: int = 0
    nonfinite: int = 0
    dropped: int = 0
    steps: int = 0  # steps recorded
    agent_errors: int = 0
    nonfinite_losses: int = 0  # steps whose logged loss was NaN or infinite


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
    connected: bool = True  # whether its agent sent telemetry or polled lately; true of ended runs
    tags: dict[str, str] = {}
    incidents: list[IncidentStatus] = []  # the latest that somebody took or closed, newest first
    redis_bytes: int = 0  # of history, parameter table and peaks in Redis, without Redis' own overhead
    registered_name: str = ""  # the agent's name for it, where an operator renamed the run
    archived: float | None = None  # Unix seconds at which it was archived
    deletes_at: float | None = None  # Unix seconds at which a deleted run is removed; until then it can be restored

    @property
    def condition(self) -> str:
        """The state for people: a run that is silent because it is paused or its agent is gone says that."""
        if self.state is RunState.STALLED and not self.connected:
            return Health.DISCONNECTED
        return "paused" if self.applied.settings.paused and self.state.is_live else self.state

    @property
    def visibility(self) -> Visibility:
        """Which lists show it."""
        if self.deletes_at is not None:
            return Visibility.DELETED
        return Visibility.LISTED if self.archived is None else Visibility.ARCHIVED


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
    spike_reference: SpikeReference = SpikeReference.RMS  # what its spike ratios are ratios to
    agent: AgentCounters = msgspec.field(default_factory=AgentCounters)
    end_reason: str = ""
    self_check: str = ""  # what the agent found at its first steps, in one line
    findings: list[str] = []  # what it found that is probably not meant, and what to do
    recovery: RecoveryStatus | None = None  # null: its agent keeps no snapshots
    rollbacks: int = 0  # so far, by detectors and by people
    scalars: list[ScalarView] = []  # that the loop logs under names of its own, in the order in which they came
    knobs: list[Knob] | None = None  # that its loop declares; null: its agent is older than knobs
    scalars_omitted: int = 0  # values that are not stored, of names beyond the 256 that a run may have


class RunList(msgspec.Struct, frozen=True):
    """GET /runs, newest first by default. `next`: cursor of the next page; null: this is the last one."""

    runs: list[RunSummary]
    next: str | None = None
