"""Messages of the agent: a registration, telemetry batches, the end of a run; and their responses.

Numbers travel as little-endian float32 matrices in one bytes field, row-major, with their column names beside them:
a reader takes the columns it knows and ignores the rest, so a new column needs no new schema version.
"""

from __future__ import annotations

import enum
import math
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec

from steadynorm_contract.knobs import MAX_KNOBS, Knob
from steadynorm_contract.scalars import ScalarDescription, ScalarRecords
from steadynorm_contract.settings import Settings
from steadynorm_contract.signals import PARAMETER_SIGNALS, SCALARS

__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_BATCH_ID_LENGTH",
    "MAX_DETECTORS",
    "MAX_NAME_LENGTH",
    "MAX_PARAMETERS",
    "MAX_REGISTRATION_BYTES",
    "MAX_TAGS",
    "MAX_TAG_NAME_LENGTH",
    "MAX_TEXT_LENGTH",
    "PACE_S",
    "ROW_COLUMNS",
    "SCALAR_COLUMNS",
    "SCHEMA_VERSION",
    "AgentCounters",
    "AgentNote",
    "AppliedReport",
    "Desired",
    "DetectorStatus",
    "NoteKind",
    "Parameter",
    "ParameterRows",
    "RecoveryStatus",
    "Registered",
    "RevisionOutcome",
    "RunEnd",
    "RunFinish",
    "RunRegistration",
    "SpikeReference",
    "StepScalars",
    "TelemetryAck",
    "TelemetryBatch",
    "UserNote",
    "floats_from_bytes",
    "floats_to_bytes",
]

SCHEMA_VERSION = 1
MAX_BATCH_BYTES = 4 * 1024 * 1024  # of one request body; the agent splits, the server refuses
MAX_REGISTRATION_BYTES = 32 * 1024 * 1024
"""Of a registration, uncompressed: MAX_PARAMETERS with names of 250 characters. The agent compresses a long one."""

PACE_S = 1.0
"""Seconds between two batches of a run, where its server does not say otherwise."""

MAX_PARAMETERS = 100_000
MAX_NAME_LENGTH = 200
MAX_TEXT_LENGTH = 500  # of a parameter's name, a tag's value
MAX_TAGS = 50
MAX_TAG_NAME_LENGTH = 100
MAX_BATCH_ID_LENGTH = 200
MAX_DETECTORS = 50
"""Of an agent, that it reports: it evaluates as many as it is given."""

SCALAR_COLUMNS = tuple(each.name for each in SCALARS)
"""Columns of the step scalars, one row every step."""

ROW_COLUMNS = tuple(each.name for each in PARAMETER_SIGNALS if each.recorded)
"""Columns of the per-parameter rows, in the registered table's order."""


def floats_to_bytes(values: Iterable[float]) -> bytes:
    """Little-endian float32."""
    packed = array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def floats_from_bytes(data: bytes) -> array[float]:
    """Little-endian float32 as an array. Raises ValueError when the length is no multiple of four bytes."""
    unpacked = array("f")
    unpacked.frombytes(data)
    if sys.byteorder == "big":
        unpacked.byteswap()
    return unpacked


class Parameter(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of a run's parameter table."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class SpikeReference(enum.StrEnum):
    """What an agent compares a norm with, so what its spike ratios and its counts of spikes and throttled are."""

    RMS = "rms"
    """The RMS norm of the rule, which an earlier spike raises; `throttled` counts small targets, whatever the cause."""

    BASELINE = "baseline"
    """The baseline of `rule`; `throttled` counts the parameters that a spike throttles."""


Knobs = Annotated[list[Knob], msgspec.Meta(max_length=MAX_KNOBS)]
LaterSettings = Annotated[dict[str, object], msgspec.Meta(max_length=MAX_KNOBS + 8)]


class RunRegistration(msgspec.Struct, kw_only=True):
    """Body of POST /runs (JSON)."""

    version: int = SCHEMA_VERSION
    name: str
    parameters: list[Parameter] = []
    settings: Settings = msgspec.field(default_factory=Settings)  # in force in the agent
    applied_revision: int = 0  # of those settings; 0 in a new run
    step: int = 0  # steps taken so far; more than 0 after a restart from a checkpoint
    run_id: str | None = None  # proposed by the agent, or from a checkpoint; made by the server if absent
    instance: str | None = None  # random per agent: registering again with the same one keeps the incarnation
    previous_instance: str | None = None  # under which the same process registered before
    framework: str = ""
    agent_version: str = ""
    world_size: int = 1
    host: str = ""
    tags: dict[str, str] = {}
    allow: list[str] | None = None  # the settings that this agent applies; None: all
    detail_every: int = 10  # steps between per-parameter rows
    spike_reference: SpikeReference = SpikeReference.RMS  # agents that do not say are older
    config: dict[str, Any] = {}  # what the user says that the run is made of
    environment: dict[str, str] = {}  # what its process found by itself, see `configuration`
    # Beside `settings` and `allow`, which servers of before read: an agent leaves out there what those do not know.
    knobs: Knobs | None = None  # that the loop declares; None: the agent is older than those
    later_settings: LaterSettings = {}  # in force, by name: `lr`, `detail_every`, `knob.NAME`
    later_allow: list[str] = []  # of those names, where `allow` is not null


class Desired(msgspec.Struct, frozen=True):
    """The desired settings and their revision, which only grows. Revision 0: as registered."""

    revision: int
    settings: Settings


class Registered(msgspec.Struct, frozen=True):
    """Response of POST /runs."""

    run_id: str
    incarnation: int  # counts the registrations of this run by different agents, from 1
    acknowledged: int  # last sequence stored of this incarnation
    desired: Desired
    previous_acknowledged: int | None = None  # last one stored of `previous_instance`; None: unknown
    server_version: str = ""  # of steadynorm
    defaults: dict[str, Any] = {}  # the server's default settings: an agent without one of them may ignore it at this
    max_scalars: int = 0  # names of logged scalars that the run may have; 0: a server that does not store any
    max_knobs: int = 0  # 0: a server of before, which has none of `settings.LATER_SETTINGS`


class RevisionOutcome(enum.StrEnum):
    """What an agent did with a revision. The server adds `pending` and `superseded`, see `runs.RevisionState`."""

    APPLIED = "applied"
    REJECTED = "rejected"


class AppliedReport(msgspec.Struct, frozen=True):
    """An agent's report on one revision: the settings in force from `step` on, or why the revision was rejected."""

    revision: int
    step: int  # the first optimizer step under these settings
    outcome: RevisionOutcome
    settings: Settings  # in force after this report
    time: float  # Unix seconds
    reason: str = ""


Steps = Annotated[list[int], msgspec.Meta(max_length=100_000)]
"""More than MAX_BATCH_BYTES can hold with their values; MessagePack gives the length first, so none is read."""


class StepScalars(msgspec.Struct, frozen=True):
    """Scalars of consecutive records. `data` is float32 [len(steps), len(columns)]."""

    steps: Steps
    times: bytes  # little-endian float64 Unix seconds, one a step
    data: bytes
    columns: tuple[str, ...] = SCALAR_COLUMNS

    def __post_init__(self) -> None:
        _check("scalars", self.data, 4 * len(self.steps) * len(self.columns))
        _check("scalar times", self.times, 8 * len(self.steps))

    def time_values(self) -> tuple[float, ...]:
        """Unix seconds, one a step."""
        return struct.unpack(f"<{len(self.steps)}d", self.times)

    def column(self, name: str) -> Sequence[float]:
        """One column's values in step order. NaN for a column that this batch does not carry."""
        if name not in self.columns:
            return [math.nan] * len(self.steps)
        return floats_from_bytes(self.data)[self.columns.index(name) :: len(self.columns)]


class ParameterRows(msgspec.Struct, frozen=True):
    """Per-parameter rows of some steps. `data` is float32 [len(steps), parameters, len(columns)]."""

    steps: Steps
    parameters: int
    data: bytes
    columns: tuple[str, ...] = ROW_COLUMNS

    def __post_init__(self) -> None:
        _check("parameter rows", self.data, 4 * len(self.steps) * self.parameters * len(self.columns))


class AgentCounters(msgspec.Struct, frozen=True):
    """Counts of records (a step's scalars are one, its per-parameter rows another, what was logged in it a third).

    produced = acknowledged + dropped + buffered at any moment. `agent.counters` counts since the process attached. In
    a batch they count since its incarnation began, with what was buffered then as produced: the server adds dropped
    records and errors over the incarnations of a run.
    """

    produced: int = 0
    acknowledged: int = 0
    dropped: int = 0
    buffered: int = 0
    errors: int = 0  # internal exceptions of the agent; the first one in a step turns it off
    sending_errors: int = 0  # those of `errors` in sending: the data are dropped, and nothing is turned off
    sinks_dropped: int = 0  # rows and events that the agent's sinks lost, beside what is counted above


class NoteKind(enum.StrEnum):
    """Kind of a note."""

    RANK_MISMATCH = "rank_mismatch"  # a rank differs from its replicas
    RANK_FAILED = "rank_failed"  # a rank's agent had an internal error: all ranks turned theirs off
    SELF_CHECK = "self_check"  # what the agent found at its first steps, in one line; no event
    FINDING = "finding"  # something about the training loop is probably not meant
    ROLLBACK = "rollback"  # all ranks went back to a snapshot
    ROLLBACK_ADVISED = "rollback_advised"  # they would have, or there is none
    UNRECOVERABLE = "unrecoverable"  # the budget of rollbacks is spent


class DetectorStatus(msgspec.Struct, frozen=True):
    """One of an agent's detectors."""

    condition: Annotated[str, msgspec.Meta(max_length=300)]  # as text, see `conditions.parse_condition`
    has_value: bool = True  # whether its scalar had a value since attach(): without one it cannot be met


class RecoveryStatus(msgspec.Struct, frozen=True):
    """What an agent with snapshots could do now."""

    snapshots: list[int] = []  # steps of the good ones, the oldest first
    budget_left: int = 0  # automatic rollbacks, until the run is paused or asked to stop
    every_steps: int = 0  # between two snapshots
    detectors: Annotated[list[DetectorStatus], msgspec.Meta(max_length=MAX_DETECTORS)] = []


class AgentNote(msgspec.Struct, frozen=True):
    """An incident between the ranks of a run, or what the agent's self-check found: the server makes an event of it."""

    kind: NoteKind
    step: int  # the next optimizer step
    time: float  # Unix seconds
    rank: int  # concerned; the first of several
    message: str  # one sentence for people
    value: float | None = None  # of the event; None: the rank


class UserNote(msgspec.Struct, frozen=True):
    """A text of `agent.note()`; at most `notes.MAX_NOTE_LENGTH` characters."""

    step: int  # the step that was current
    time: float  # Unix seconds
    text: str


class TelemetryBatch(msgspec.Struct, kw_only=True):
    """Body of POST /runs/{run_id}/telemetry (MessagePack). (run, incarnation, sequence) identifies it."""

    version: int = SCHEMA_VERSION
    incarnation: int
    sequence: int  # from 1, growing by 1 with each batch of an incarnation
    scalars: StepScalars | None = None
    rows: ParameterRows | None = None
    applied: list[AppliedReport] = []
    counters: AgentCounters = msgspec.field(default_factory=AgentCounters)
    batch_ids: dict[int, Annotated[str, msgspec.Meta(max_length=MAX_BATCH_ID_LENGTH)]] = {}
    """The training loop's names of the data of those steps in `scalars` that spiked or were not finite."""
    notes: list[AgentNote] = []
    user_notes: list[UserNote] = []
    recovery: RecoveryStatus | None = None  # null: the agent keeps no snapshots
    logged: list[ScalarRecords] = []  # what the loop logged under names of its own
    described: dict[str, ScalarDescription] = {}  # of those names: what is new


class TelemetryAck(msgspec.Struct, frozen=True):
    """Response to a batch (JSON): everything up to `acknowledged` is stored and may be freed."""

    acknowledged: int
    desired: Desired
    pace_s: float = PACE_S  # seconds from this batch to the next one, unless it brings what cannot wait


class RunEnd(enum.StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


class RunFinish(msgspec.Struct, frozen=True):
    """Body of POST /runs/{run_id}/finish (JSON)."""

    state: RunEnd
    incarnation: int | None = None
    reason: str = ""


def _check(what: str, data: bytes, expected: int) -> None:
    if len(data) != expected:
        raise ValueError(f"{what}: expected {expected} bytes for the stated steps and columns, got {len(data)}")
