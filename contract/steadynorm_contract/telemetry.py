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
from typing import Annotated

import msgspec

from steadynorm_contract.settings import Settings
from steadynorm_contract.signals import PARAMETER_SIGNALS, SCALARS

__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_BATCH_ID_LENGTH",
    "MAX_NAME_LENGTH",
    "MAX_PARAMETERS",
    "ROW_COLUMNS",
    "SCALAR_COLUMNS",
    "SCHEMA_VERSION",
    "AgentCounters",
    "AgentNote",
    "AppliedReport",
    "Desired",
    "NoteKind",
    "Parameter",
    "ParameterRows",
    "Registered",
    "RevisionOutcome",
    "RunEnd",
    "RunFinish",
    "RunRegistration",
    "StepScalars",
    "TelemetryAck",
    "TelemetryBatch",
    "floats_from_bytes",
    "floats_to_bytes",
]

SCHEMA_VERSION = 1
MAX_BATCH_BYTES = 4 * 1024 * 1024  # of one request body; the agent splits, the server refuses
MAX_PARAMETERS = 100_000
MAX_NAME_LENGTH = 200
MAX_BATCH_ID_LENGTH = 200

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
    """Counts of records (a step's scalars are one, a step's per-parameter rows another).

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


class NoteKind(enum.StrEnum):
    """Kind of a note."""

    RANK_MISMATCH = "rank_mismatch"  # a rank differs from its replicas
    RANK_FAILED = "rank_failed"  # a rank's agent had an internal error: all ranks turned theirs off


class AgentNote(msgspec.Struct, frozen=True):
    """An incident between the ranks of a run, which the server turns into an event."""

    kind: NoteKind
    step: int  # the next optimizer step
    time: float  # Unix seconds
    rank: int  # concerned; the first of several
    message: str  # one sentence for people


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


class TelemetryAck(msgspec.Struct, frozen=True):
    """Response to a batch (JSON): everything up to `acknowledged` is stored and may be freed."""

    acknowledged: int
    desired: Desired


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
