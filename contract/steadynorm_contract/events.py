"""Events of a run: spikes, non-finite gradients, stalls, its start and end."""

from __future__ import annotations

import enum

import msgspec

__all__ = ["Event", "EventKind", "EventList"]


class EventKind(enum.StrEnum):
    """Kind of an event, and the meaning of its `value`."""

    SPIKE = "spike"  # a norm above 10 times its previous RMS norm; value: the ratio
    NONFINITE = "nonfinite"  # a NaN or infinite gradient; value: how many parameters
    THROTTLED = "throttled"  # a target fell below 0.3; value: the target
    RECOVERED = "recovered"  # all targets are 0.3 or above again; value: the smallest target
    STALLED = "stalled"  # no telemetry for a while; value: seconds
    RESUMED = "resumed"  # telemetry arrived again; value: seconds without
    STARTED = "started"  # an agent registered; value: the incarnation
    ENDED = "ended"  # finished, failed or stopped: see `message`
    REJECTED = "rejected"  # an agent rejected a revision; value: the revision
    RANK_MISMATCH = "rank_mismatch"  # a rank differs from its replicas; value: the rank
    RANK_FAILED = "rank_failed"  # a rank's agent failed, and all ranks turned theirs off; value: the rank
    AUTOMATION = "automation"  # a schedule or a watch rule acted; value: the revision that it made
    AGENT_ERROR = "agent_error"  # internal errors of the agent: see `message`; value: how many


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of GET /runs/{run_id}/events."""

    id: str  # grows with time
    kind: EventKind
    step: int
    time: float  # Unix seconds
    message: str  # one sentence for people
    parameter: str | None = None
    value: float | None = None
    batch_id: str | None = None  # of a spike or a non-finite gradient: the training loop's name of the step's data


class EventList(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/events, newest first. `next`: cursor of older ones; null: there are none."""

    events: list[Event]
    next: str | None = None
