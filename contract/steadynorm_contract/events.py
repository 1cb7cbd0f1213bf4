"""Events of a run: spikes, non-finite gradients, stalls, its start and end."""

import enum

import msgspec

__all__ = ["Event", "EventKind", "EventList"]


class EventKind(enum.StrEnum):
    """Kind of an event, and the meaning of its `value`."""

    SPIKE = "spike"  # a norm above 10 times its baseline, see `rule`; value: the ratio
    NONFINITE = "nonfinite"  # a NaN or infinite gradient; value: how many parameters
    THROTTLED = "throttled"  # a spike brought a target below 0.3; value: the target
    FALLING = "falling"  # a target stays below 0.3 without a spike: norms fall; no incident; value: the target
    RECOVERED = "recovered"  # no spike has done so for some steps; value: the smallest target
    STALLED = "stalled"  # no telemetry for a while; value: seconds
    RESUMED = "resumed"  # telemetry arrived again; value: seconds without
    STARTED = "started"  # an agent registered; value: the incarnation
    ENDED = "ended"  # finished, failed or stopped: see `message`
    REJECTED = "rejected"  # an agent rejected a revision; value: the revision
    RANK_MISMATCH = "rank_mismatch"  # a rank differs from its replicas; value: the rank
    RANK_FAILED = "rank_failed"  # a rank's agent failed, and all ranks turned theirs off; value: the rank
    AUTOMATION = "automation"  # a schedule or a watch rule acted; value: the revision that it made
    PROPOSAL = "proposal"  # a change was proposed, approved or refused; value: the revision that it became
    FINDING = "finding"  # the agent's self-check found something, see `message`; value: the rank
    ROLLBACK = "rollback"  # all ranks went back to a snapshot, see `message`; value: its step
    ROLLBACK_ADVISED = "rollback_advised"  # they would have; value: the snapshot's step
    UNRECOVERABLE = "unrecoverable"  # the budget of rollbacks is spent: the run is paused or asked to stop
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
    actor: str | None = None  # of a rollback that was asked for: who did, as in the audit list; null: a detector


class EventList(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/events, newest first. `next`: cursor of older ones; null: there are none."""

    events: list[Event]
    next: str | None = None
