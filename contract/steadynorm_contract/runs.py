"""What the server tells people: the answers of its GET routes and of PATCH settings, as JSON."""

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
