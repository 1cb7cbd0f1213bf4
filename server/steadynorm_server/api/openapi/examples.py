"""What /openapi.json shows of each body and parameter: one run, told from its registration to its end.

Requests can be sent as they stand, in the order of an agent's and an operator's life; a test does so.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from steadynorm_contract.audit import AuditChain, AuditEntry, AuditList
from steadynorm_contract.bulk import Bulk, BulkOutcome, BulkResponse, BulkRow, Selection
from steadynorm_contract.changes import Change
from steadynorm_contract.events import Event, EventKind, EventList
from steadynorm_contract.fleet import FleetResponse, FleetRun, LastChange, Spark
from steadynorm_contract.retention import Retention, RetentionChange, RetentionLimits, RetentionUpdate
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
from steadynorm_contract.schedules import NewSchedule, Schedule, ScheduleList
from steadynorm_contract.series import Heatmap, ParameterList, ParameterView, Series, SeriesResponse
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import (
    AgentCounters,
    AppliedReport,
    Desired,
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
    floats_to_bytes,
)
from steadynorm_contract.tokens import TokenInfo
from steadynorm_contract.watch_rules import RuleList, RuleSet, RuleView, WatchRule, parse_condition

__all__ = ["BODIES", "PARAMETERS", "PLAIN", "RUN_ID"]

RUN_ID = "gpt-small-1f2e3d4c"
_NAME = "gpt-small"
_TENSOR = "blocks.0.attn.weight"
_BEGAN = 1_767_225_600.0
_TAGS = {"team": "nlp"}
_WANTED = Settings(gamma2=0.99)
_WHY = "spikes since step 4000"
_HASH = "5f0a52c1d0b6f5c0c2b9a8a51b7f2a35d5fd03a0e9f2f4c2c6f2b7a1d3e4c5b6"
_STEPS = [1, 2]

_REGISTRATION = RunRegistration(
    name=_NAME,
    run_id=RUN_ID,
    instance="2f6c1f0e9d",
    parameters=[Parameter(_TENSOR, (192, 64), "float32"), Parameter("head.weight", (65, 64), "float32")],
    framework="torch 2.13.0",
    world_size=1,
    tags=_TAGS,
)
_BATCH = TelemetryBatch(
    incarnation=1,
    sequence=1,
    scalars=StepScalars(
        _STEPS,
        struct.pack("<2d", _BEGAN + 1, _BEGAN + 2),
        floats_to_bytes([4.17, 1e-3, 1.2, 0.9, 1.0, 0, 1.1, 1, 4.15, 1e-3, 1.1, 0.9, 0.98, 0, 1.0, 1]),
        ("loss", "learning_rate", "raw_norm", "stabilized_norm", "target_min", "target_parameter", "spike_ratio_max",
         "spike_parameter"),
    ),
    rows=ParameterRows([2], 2, floats_to_bytes([0.8, 0.82, 0.84, 1.17, 0.97, 0.6, 0.6, 0.61, 1.6, 1.0])),
    applied=[AppliedReport(0, 1, RevisionOutcome.APPLIED, Settings(), _BEGAN + 1)],
    counters=AgentCounters(produced=3, buffered=3),
)  # fmt: skip
_RULE = WatchRule(
    id="low",
    when=parse_condition("target_min < 0.3 for 200 steps"),
    settings={"reset_generation": "+1"},
    reason="throttled after a spike",
)
_SUMMARY: dict[str, Any] = {
    "run_id": RUN_ID, "name": _NAME, "state": RunState.RUNNING, "health": Health.CALM, "step": 4130,
    "started": _BEGAN, "last_seen": _BEGAN + 413.2,
    "desired": DesiredView(1, _WANTED, RevisionState.APPLIED), "applied": Applied(1, 4127, _WANTED),
    "counters": RunCounters(spikes=3, steps=4130), "loss": 2.05, "learning_rate": 1e-3, "raw_norm": 0.81,
    "stabilized_norm": 0.97, "target_min": 0.98, "spike_ratio_max": 1.2, "steps_per_s": 10.1, "tags": _TAGS,
    "store_bytes": 1_482_904,
}  # fmt: skip
_SCHEDULE = Schedule(
    id="1", from_step=10_000, settings={"gamma2": 0.999}, reason="after the warm-up", created_by="operator",
    created_at=_BEGAN + 420,
)  # fmt: skip

_STRUCTS: list[msgspec.Struct] = [
    _REGISTRATION,
    Registered(RUN_ID, 1, 0, Desired(0, Settings())),
    _BATCH,
    TelemetryAck(1, Desired(1, _WANTED)),
    RunFinish(RunEnd.FINISHED, 1),
    Desired(1, _WANTED),
    Change({"gamma2": 0.99}, _WHY),
    Bulk(select=Selection(name="gpt-*", tags=_TAGS), settings={"gamma2": 0.99}, reason=_WHY),
    BulkResponse(
        True,
        [
            BulkRow(
                run_id=RUN_ID, name=_NAME, outcome=BulkOutcome.CHANGE, revision=0,
                before={"gamma2": 0.999}, after={"gamma2": 0.99},
            )
        ],
        {RUN_ID: 0},
    ),
    RunList([RunSummary(**_SUMMARY)]),
    FleetResponse(
        runs=[
            FleetRun(
                **_SUMMARY,
                last_change=LastChange(
                    revision=1, time=_BEGAN + 400, actor="operator", reason=_WHY, before={"gamma2": 0.999},
                    after={"gamma2": 0.99}, state=RevisionState.APPLIED,
                ),
                loss_spark=Spark([4.7, 3.1], [4.9, 3.6]),
                norm_spark=Spark([0.6, 0.7], [3.2, 41.7]),
            )
        ],
        matching=1, total=1, states={"running": 1}, healths={"calm": 1}, tags={"team=nlp": 1},
    ),
    RunDetail(**_SUMMARY, incarnation=1, parameters=2, framework="torch 2.13.0", agent=AgentCounters(4544, 4540, 0, 4)),
    SeriesResponse(
        {
            "raw_norm": Series(
                [1, 2048, 4096], [2047, 2048, 35], [0.6, 0.7, 0.8], [1.1, 0.9, 0.8], [3.2, 41.7, 0.9],
                [_BEGAN + 0.1, _BEGAN + 204.8, _BEGAN + 409.6],
            )
        }
    ),
    Heatmap(
        "spike_ratio", [_TENSOR, "head.weight"], [10, 2050, 4100], [204, 205, 4],
        [_BEGAN + 1, _BEGAN + 205, _BEGAN + 410], [[1.4, 52.1, 1.1], [1.2, 1.9, 1.0]],
    ),
    ParameterList(
        4130,
        [
            ParameterView(
                name=_TENSOR, shape=[192, 64], dtype="float32", numel=12_288, raw_norm=0.8, norm_mean=0.82,
                norm_rms=0.84, scale=1.17, spike_ratio=0.97, target=0.98, spike_ratio_max=52.1, spikes=3,
            ),
            ParameterView(name="head.weight", shape=[65, 64], dtype="float32", numel=4160),
        ],
    ),
    EventList(
        [
            Event(
                id="1767225809100-0", kind=EventKind.SPIKE, step=4091, time=_BEGAN + 409.1, value=52.1,
                message=f"{_TENSOR}: a gradient norm 52 times its RMS.", parameter=_TENSOR,
            )
        ]
    ),
    AuditList(
        [
            AuditEntry(
                revision=1, time=_BEGAN + 412, actor="operator", reason=_WHY, before={"gamma2": 0.999},
                after={"gamma2": 0.99}, state=RevisionState.APPLIED, applied_step=4127, applied_time=_BEGAN + 412.7,
                hash=_HASH,
            )
        ],
        AuditChain(True, _HASH),
    ),
    TokenInfo("operator", ["operator", "viewer"]),
    NewSchedule(from_step=10_000, settings={"gamma2": 0.999}, reason="after the warm-up"),
    _SCHEDULE,
    ScheduleList([_SCHEDULE]),
    RetentionUpdate(max_mib=16.0, keep_days=90.0, reason="a sweep's run: its end is what counts"),
    Retention(
        revision=1, own=RetentionLimits(16.0, 90.0),
        in_force=RetentionLimits(16.0, 90.0), ceiling_mib=64.0, store_bytes=1_482_904,
        expires=_BEGAN + 413.2 + 90 * 86_400,
        changes=[
            RetentionChange(
                _BEGAN + 400, "operator", "a sweep's run: its end is what counts", RetentionLimits(),
                RetentionLimits(16.0, 90.0),
            )
        ],
    ),
    RuleSet([_RULE]),
    RuleList(
        1,
        [
            RuleView(
                rule=_RULE, condition="target_min < 0.3 for 200 steps", created_by="operator", created_at=_BEGAN + 420,
                count=12, needed=200, actions=0, actions_left=1,
            )
        ],
    ),
]  # fmt: skip

BODIES: dict[str, Any] = {type(each).__name__: msgspec.json.decode(msgspec.json.encode(each)) for each in _STRUCTS}
"""By the struct's name, as JSON; bytes are Base64, as the schema says."""

PARAMETERS: dict[str, Any] = {
    "run_id": RUN_ID,
    "schedule_id": "1",
    "state": ["running", "stalled"],
    "health": ["calm", "spiking"],
    "search": "gpt team=nlp",
    "name": {"runs": "gpt-*", "fleet": "gpt-*", "series": ["raw_norm", f"raw_norm/{_TENSOR}"]},
    "names": ["loss,target_min"],
    "tag": ["team=nlp"],
    "sort": "-last_seen",
    "limit": 100,
    "cursor": {
        "runs": "WyItbGFzdF9zZWVuIiwxNzY3MjI1ODEzLjIsImdwdC1zbWFsbC0xZjJlM2Q0YyJd",
        "parameters": "100",
        "": "1767225809100-0",
    },
    "from": 1,
    "to": 4130,
    "points": 500,
    "signal": "spike_ratio",
    "table": "steps",
    "after_revision": 0,
    "wait": 0.01,
    "if-match": '"0"',
    "if-none-match": '"d41d8cd98f00b204e9800998"',
}
"""By the parameter's name; where it differs between routes, by the last fixed part of the path, else by ""."""

PLAIN: dict[str, Any] = {
    "/healthz": {"application/json": {"status": "ok"}},
    "/readyz": {"application/json": {"status": "ok"}},
    "/metrics": {"text/plain": f'steadynorm_run_step{{run_id="{RUN_ID}",run="{_NAME}"}} 4130.0\n'},
}
"""Of answers that are no struct, by path and media type."""
