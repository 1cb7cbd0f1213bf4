"""A run as the server reports it: state, health, desired and applied settings, counters."""

from __future__ import annotations

import enum

import msgspec

from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import AgentCounters

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


class DesiredView(msgspec.Struct, frozen=True):
    """The desired settings. `state` is that of their revision."""

    revision: int
    settings: Settings
    state: RevisionState
    reason: str = ""  # why it was rejected


class Applied(msgspec.Struct, frozen=True):
    """The applied settings as the agent reported them: those of `revision`, in force since `step`."""

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
    connected: bool = True  # whether its agent sent telemetry or polled lately; true of ended runs
    tags: dict[str, str] = {}
    store_bytes: int = 0  # of history, parameter table and peaks in Redis, without Redis' own overhead


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
    """GET /runs, newest first by default. `next`: cursor of the next page; null: this is the last one."""

    runs: list[RunSummary]
    next: str | None = None
