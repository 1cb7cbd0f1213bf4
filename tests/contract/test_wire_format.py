"""The wire format, byte for byte. A change of a file in golden/ is a change that other versions of us must survive.

A new optional field may be added: its golden file then grows, and the old one must still decode. To write the files
anew after such a change: `python -m pytest tests/contract --golden=write`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from steadynorm_contract import codec
from steadynorm_contract.audit import AuditEntry, AuditList
from steadynorm_contract.changes import Change
from steadynorm_contract.discovery import ServerAddress
from steadynorm_contract.events import Event, EventKind, EventList
from steadynorm_contract.incidents import IncidentState, IncidentStatus
from steadynorm_contract.notes import Note, NoteAction, NoteList
from steadynorm_contract.problems import Problem
from steadynorm_contract.proposals import Decision, NewProposal, Proposal, ProposalList, ProposalState
from steadynorm_contract.runs import (
    Applied,
    DesiredView,
    Health,
    RevisionState,
    RunCounters,
    RunDetail,
    RunList,
    RunState,
    RunSummary,
)
from steadynorm_contract.schedules import Schedule, ScheduleList, ScheduleState
from steadynorm_contract.series import ParameterList, ParameterView, Series, SeriesResponse
from steadynorm_contract.settings import FieldError, Mode, Settings, Transfer
from steadynorm_contract.telemetry import (
    ROW_COLUMNS,
    SCALAR_COLUMNS,
    SCHEMA_VERSION,
    AgentCounters,
    AgentNote,
    AppliedReport,
    Desired,
    NoteKind,
    Parameter,
    ParameterRows,
    Registered,
    RevisionOutcome,
    RunEnd,
    RunFinish,
    RunRegistration,
    StepScalars,
    TelemetryAck,
    TelemetryBatch,
    UserNote,
    floats_to_bytes,
)
from steadynorm_contract.watch_rules import Comparison, Condition, RuleList, RuleView, WatchRule

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = Settings(
    mode=Mode.OBSERVE,
    gamma1=0.5,
    gamma2=0.99,
    eps=1e-9,
    spike_limit=10.0,
    spike_fade=True,
    transfer=Transfer.PLAIN,
    clip_norm="auto",
    lr_scale=0.5,
    paused=True,
    stop=True,
    reset_generation=2,
    checkpoint_generation=3,
)
SUMMARY: dict[str, Any] = {
    "run_id": "gpt-small-1f2e3d4c",
    "name": "gpt-small",
    "state": RunState.RUNNING,
    "health": Health.SPIKING,
    "step": 4012,
    "started": 1700000000.5,
    "last_seen": 1700000100.25,
    "desired": DesiredView(2, SETTINGS, RevisionState.REJECTED, "mode is not in `allow`"),
    "applied": Applied(1, 4000, Settings()),
    "counters": RunCounters(spikes=3, nonfinite=1, dropped=2, steps=4012, agent_errors=0),
    "loss": 2.5,
    "raw_norm": 1.25,
    "spike_ratio_max": None,
    "tags": {"team": "a"},
}


class Example(NamedTuple):
    file: str
    value: object
    decode: Callable[[bytes], object]


def _json(file: str, value: object) -> Example:
    return Example(file, value, lambda data: codec.decode_json(data, type(value)))


SCHEDULE = Schedule(
    id="1f2e3d4c",
    from_step=10_000,
    settings={"gamma2": 0.999},
    reason="",
    created_by="operator",
    created_at=1700000000.0,
)
RULE = WatchRule(
    id="high",
    when=Condition(scalar="loss", comparison=Comparison.ABOVE, value=20.0, times=3),
    settings={"reset_generation": "+1"},
    max_actions=5,
)
PROPOSAL = Proposal(
    id="1f2e3d4c",
    revision=4,
    settings={"gamma2": 0.99, "knob.coef": 0.02},
    reason="entropy falls",
    proposed_by="tuner",
    proposed_at=1700000000.0,
)
DECIDED = msgspec.structs.replace(
    PROPOSAL,
    id="f00d",
    revision=3,
    state=ProposalState.APPROVED,
    decided_by="operator",
    decided_at=1700000060.0,
    decision="as discussed",
    made=4,
)

EXAMPLES = [
    Example(
        "registration.json",
        RunRegistration(
            name="gpt-small",
            parameters=[Parameter("blocks.0.weight", (64, 32), "bfloat16"), Parameter("scale", (), "float32")],
            settings=SETTINGS,
            applied_revision=1,
            step=4000,
            run_id="gpt-small-1f2e3d4c",
            instance="f00d",
            previous_instance="beef",
            framework="torch 2.13.0",
            agent_version="0.1.0",
            world_size=8,
            host="node7",
            tags={"team": "a"},
            allow=["gamma1", "gamma2"],
            detail_every=10,
        ),
        codec.decode_registration,
    ),
    Example(
        "telemetry.msgpack",
        TelemetryBatch(
            incarnation=1,
            sequence=7,
            scalars=StepScalars(
                [4000, 4001],
                struct.pack("<2d", 1700000000.0, 1700000000.5),
                floats_to_bytes([*range(12), math.nan, math.inf, -math.inf, *range(9)]),
                SCALAR_COLUMNS[:12],  # an agent of before `loss_nonfinite`
            ),
            rows=ParameterRows([4000], 2, floats_to_bytes(range(10))),
            applied=[AppliedReport(1, 4000, RevisionOutcome.APPLIED, SETTINGS, 1700000000.0, "")],
            counters=AgentCounters(produced=9, acknowledged=5, dropped=1, buffered=3, errors=2, sending_errors=1),
            batch_ids={4001: "shard3:1042"},
            notes=[AgentNote(NoteKind.RANK_MISMATCH, 4001, 1700000000.5, 3, "rank 3 differs.")],
            user_notes=[UserNote(4001, 1700000000.5, "new data")],
        ),
        codec.decode_batch,
    ),
    Example("empty_telemetry.msgpack", TelemetryBatch(incarnation=1, sequence=1), codec.decode_batch),
    _json("registered.json", Registered("gpt-small-1f2e3d4c", 2, 7, Desired(3, SETTINGS), 6, "0.1.0", {"gamma1": 0.6})),
    _json("telemetry_ack.json", TelemetryAck(7, Desired(3, SETTINGS))),
    _json("desired.json", Desired(0, Settings())),
    _json("finish.json", RunFinish(RunEnd.FAILED, 2, "out of memory")),
    _json("change.json", Change({"gamma2": 0.99, "mode": "observe"}, "spikes since step 4000")),
    _json("runs.json", RunList([RunSummary(**SUMMARY)])),
    _json(
        "run.json",
        RunDetail(
            **SUMMARY,
            incarnation=2,
            parameters=2,
            host="node7",
            allow=["gamma2"],
            end_reason="out of memory",
            self_check="2 of 2 tensors",
            findings=["a finding."],
        ),
    ),
    _json(
        "series.json",
        SeriesResponse(
            {"loss": Series([0, 8], [8, 3], [1.5, None], [2.0, None], [2.5, None], [1700000000.0, 1700000008.0])}
        ),
    ),
    _json(
        "parameters.json",
        ParameterList(
            4000, [ParameterView(name="scale", shape=[], dtype="float32", numel=1, raw_norm=1.5, spike_ratio_max=12.0)]
        ),
    ),
    _json(
        "events.json",
        EventList(
            [
                Event(
                    id="1700000000000-0",
                    kind=EventKind.SPIKE,
                    step=4000,
                    time=1700000000.0,
                    message="the gradient norm of scale was 120 times its baseline.",
                    parameter="scale",
                    value=120.0,
                    batch_id="shard3:1042",
                )
            ]
        ),
    ),
    _json(
        "audit.json",
        AuditList(
            [
                AuditEntry(
                    revision=1,
                    time=1700000000.0,
                    actor="operator",
                    reason="spikes",
                    before={"gamma2": 0.999},
                    after={"gamma2": 0.99},
                    state=RevisionState.APPLIED,
                    applied_step=4000,
                    applied_time=1700000001.0,
                )
            ]
        ),
    ),
    _json(
        "problem.json",
        Problem(
            title="Invalid settings",
            status=422,
            detail="gamma2 must be in [0, 1): got 1.0. For a longer memory use 0.9999.",
            instance="/api/v1/runs/x/settings",
            errors=[FieldError("gamma2", "must be in [0, 1)", "gamma2 must be in [0, 1): got 1.0.")],
        ),
    ),
    _json(
        "schedules.json",
        ScheduleList(
            [SCHEDULE, msgspec.structs.replace(SCHEDULE, id="f00d", revision=4, step=10_009, state=ScheduleState.DONE)]
        ),
    ),
    _json(
        "rules.json",
        RuleList(
            3,
            [
                RuleView(
                    rule=RULE,
                    condition="loss > 20, 3 times",
                    created_by="operator",
                    created_at=1700000000.0,
                    count=2,
                    needed=3,
                    actions=1,
                    actions_left=4,
                    cooldown_until_step=500,
                    last_step=400,
                    last_revision=2,
                )
            ],
        ),
    ),
    _json(
        "notes.json",
        NoteList(
            notes=[
                Note(
                    id="1700000000000-0",
                    time=1700000000.0,
                    author="operator",
                    text="shard 3",
                    step=4000,
                    event="1700000000000-0",
                    action=NoteAction.TAKE,
                    to="ada",
                    hash=64 * "a",
                )
            ],
            incidents=[
                IncidentStatus(
                    event="1700000000000-0", step=4000, state=IncidentState.TAKEN, by="ada", time=1700000000.0
                )
            ],
        ),
    ),
    _json("new_proposal.json", NewProposal({"gamma2": 0.99, "knob.coef": 0.02}, "entropy falls", revision=3)),
    _json("decision.json", Decision(False, "wait for the evaluation")),
    _json("proposals.json", ProposalList([PROPOSAL, DECIDED], 4)),
    _json("server.json", ServerAddress("http://127.0.0.1:8470", None)),
]


def encoded(example: Example) -> bytes:
    if isinstance(example.value, TelemetryBatch):
        return codec.encode_batch(example.value)
    return codec.encode_json(example.value)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.file)
def test_a_message_is_what_it_always_was(example: Example, pytestconfig: pytest.Config) -> None:
    file = GOLDEN / example.file
    if pytestconfig.getoption("--golden", "check") == "write":
        file.write_bytes(encoded(example))
    assert encoded(example) == file.read_bytes()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.file)
def test_a_message_of_then_is_read_now(example: Example) -> None:
    again = example.decode((GOLDEN / example.file).read_bytes())
    assert type(again) is type(example.value)
    assert msgspec.msgpack.encode(again) == msgspec.msgpack.encode(example.value)


def test_every_golden_file_is_used() -> None:
    assert {file.name for file in GOLDEN.iterdir()} == {example.file for example in EXAMPLES}


def test_columns_and_version_are_pinned() -> None:
    assert SCHEMA_VERSION == 1
    assert (
        *("loss", "learning_rate", "raw_norm", "stabilized_norm", "target_min", "target_parameter"),
        *("spike_ratio_max", "spike_parameter", "spikes", "nonfinite", "nonfinite_parameter", "throttled"),
        *("loss_nonfinite", "faded"),
    ) == SCALAR_COLUMNS
    assert ROW_COLUMNS == ("raw_norm", "norm_mean", "norm_rms", "scale", "spike_ratio")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.file)
def test_fields_from_the_future_are_ignored_but_in_what_people_write(example: Example) -> None:
    data = (GOLDEN / example.file).read_bytes()
    wire = msgspec.msgpack if example.file.endswith(".msgpack") else msgspec.json
    newer = wire.encode(wire.decode(data) | {"from_the_future": [1, 2]})
    if isinstance(example.value, Change | NewProposal | Decision):  # where it may be a mistyped name
        with pytest.raises(codec.MalformedMessage, match="from_the_future"):
            example.decode(newer)
        return
    assert msgspec.msgpack.encode(example.decode(newer)) == msgspec.msgpack.encode(example.value)
