"""A server with three tokens, a scripted training run, and the types of the dashboard's fixtures."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import struct
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import urllib3
from streamlit.testing.v1 import AppTest

import steadynorm_dashboard
from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.codec import decode_json, encode_batch, encode_json
from steadynorm_contract.lifecycle import Visibility
from steadynorm_contract.rule import SPIKE_RATIO, TensorState, advance, is_throttled
from steadynorm_contract.scalars import ScalarRecords
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import (
    ROW_COLUMNS,
    SCALAR_COLUMNS,
    AgentNote,
    AppliedReport,
    Desired,
    Parameter,
    ParameterRows,
    RecoveryStatus,
    Registered,
    RevisionOutcome,
    RunEnd,
    RunFinish,
    RunRegistration,
    SpikeReference,
    StepScalars,
    TelemetryAck,
    TelemetryBatch,
    floats_to_bytes,
)

APP = Path(steadynorm_dashboard.__file__).with_name("app.py")
EVIL_NAME = "<img src=x onerror=alert(1)>"
OPERATOR, AGENT, VIEWER = "operator-token-for-tests", "agent-token-for-tests", "viewer-token-for-tests"
PROPOSER = "proposer-token-for-tests"
PARAMETERS = [
    Parameter("embedding.weight", (256, 128), "float32"),
    *(
        Parameter(f"blocks.{block}.{part}.weight", shape, "float32")
        for block in range(2)
        for part, shape in (
            ("attention.qkv", (384, 128)),
            ("attention.out", (128, 128)),
            ("mlp.up", (512, 128)),
            ("mlp.down", (128, 512)),
            ("norm", (128,)),
        )
    ),
    Parameter("head.weight", (256, 128), "float32"),
]


def local_stack(home: Path, *, dashboard: bool) -> LocalStack:
    """A server with tokens of an operator, an agent, a viewer and a proposer, in processes of its own on free ports.

    dashboard: with one, before the server that already runs on that folder, if one does.
    """
    foreign = ("STEADYNORM_", "REDIS_URL", "STREAMLIT_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    tuner = {"name": "tuner", "role": "proposer", "sha256": hashlib.sha256(PROPOSER.encode()).hexdigest()}
    (home / "tokens.json").write_text(json.dumps([tuner]))
    environ |= {
        "STEADYNORM_TOKENS_FILE": str(home / "tokens.json"),
        "STEADYNORM_OPERATOR_TOKEN": OPERATOR,
        "STEADYNORM_AGENT_TOKEN": AGENT,
        "STEADYNORM_VIEWER_TOKEN": VIEWER,
        "STEADYNORM_STALLED_AFTER_S": "3600",  # runs of these tests speak once, and are looked at for minutes
    }
    return LocalStack(home, port=0, dashboard_port=0, dashboard=dashboard, reuse_running=dashboard, environ=environ)


def without_runs(stack: LocalStack) -> LocalStack:
    """Deletes the runs of a server that files of tests share; returns the server."""
    client = stack.client()
    for run in client.runs(visibility=list(Visibility)).runs:
        client.delete(run.run_id)
    return stack


def tables(page: AppTest) -> list[list[dict[str, str]]]:
    """The tables of a page: the rows of each, as texts by the titles of their columns."""
    found = [json.loads(each.proto.json) for each in page.get("bidi_component")]
    return [
        [
            dict(zip([column["title"] for column in table["columns"]], row["cells"], strict=True))
            for row in table["body"]
        ]
        for table in found
        if "body" in table
    ]


class ScriptedRun:
    """A training run without a training: the rule over made-up norms, spoken over the real wire.

    It follows the desired settings as an agent does, but only while `follows` is set, and refuses them all where
    `refuses` says why. Within `with` it trains in a thread; outside it takes steps only by `send`.
    batch_id: what its training loop calls the data of every step. nan_losses: the steps whose loss is NaN.
    """

    def __init__(
        self,
        server: LocalStack,
        name: str,
        *,
        steps: int = 400,
        parameters: Sequence[Parameter] = PARAMETERS,
        batch_id: str = "",
        nan_losses: Collection[int] = (),
        notes: Sequence[AgentNote] = (),
        recovery: RecoveryStatus | None = None,
        **registration: Any,
    ) -> None:
        self._server = server
        self._http = urllib3.PoolManager(timeout=120.0, retries=False)
        self._random = random.Random(7)
        self._parameters, self._batch_id = list(parameters), batch_id
        self._nan_losses = nan_losses
        self._notes = list(notes)  # of the next batch
        self._recovery = recovery
        self._states = [TensorState() for _ in self._parameters]
        self._settings = Settings()
        self._revision = 0
        self._sequence = 0
        self.follows = threading.Event()
        self.follows.set()
        self.refuses: str | None = None
        self.remark = ""  # about what it applies
        self.logs: dict[str, float] = {}  # under names of the loop's own, in every step from now on
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None
        self.step = 0
        about = {"framework": "torch 2.13.0", "spike_reference": SpikeReference.BASELINE, **registration}
        table = RunRegistration(name=name, parameters=self._parameters, **about)
        registered = decode_json(self._post("/runs", encode_json(table), "application/json"), Registered)
        self.run_id, self._incarnation = registered.run_id, registered.incarnation
        if steps:
            self.send(steps)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        assert self._thread is not None
        self._thread.join()
        self.finish()

    def finish(self, state: RunEnd = RunEnd.FINISHED, reason: str = "") -> None:
        """Say that the run ended."""
        body = encode_json(RunFinish(state, self._incarnation, reason))
        self._post(f"/runs/{self.run_id}/finish", body, "application/json")

    def send(self, steps: int) -> None:
        """Take `steps` steps and send them; then do what the answer asks."""
        first = self.step
        scalars: list[float] = []
        rows: list[float] = []
        for _ in range(steps):
            more_scalars, more_rows = self._take_step()
            scalars += more_scalars
            if (self.step - 1) % 10 == 0:
                rows += more_rows
        taken = list(range(first, self.step))
        times = struct.pack(f"<{steps}d", *(time.time() - 0.05 * (self.step - step) for step in taken))
        row_steps = [step for step in taken if step % 10 == 0]
        logged = []
        if self.logs:
            values = floats_to_bytes([*self.logs.values()] * steps)
            logged = [ScalarRecords(tuple(self.logs), taken, times, values)]
        self._batch(
            logged=logged,
            scalars=StepScalars(taken, times, floats_to_bytes(scalars)),
            rows=ParameterRows(row_steps, len(self._parameters), floats_to_bytes(rows)) if row_steps else None,
        )

    def _train(self) -> None:
        while not self._ends.wait(0.25):
            self.send(5)

    def _batch(
        self,
        scalars: StepScalars | None = None,
        rows: ParameterRows | None = None,
        applied: list[AppliedReport] | None = None,
        logged: list[ScalarRecords] | None = None,
    ) -> None:
        self._sequence += 1
        notes, self._notes = self._notes, []
        batch = TelemetryBatch(
            incarnation=self._incarnation,
            sequence=self._sequence,
            scalars=scalars,
            rows=rows,
            applied=applied or [],
            logged=logged or [],
            notes=notes,
            recovery=self._recovery,
            batch_ids=dict.fromkeys(scalars.steps, self._batch_id) if scalars and self._batch_id else {},
        )
        answer = self._post(f"/runs/{self.run_id}/telemetry", encode_batch(batch), "application/msgpack")
        desired = decode_json(answer, TelemetryAck).desired
        if desired.revision > self._revision and self.follows.is_set():
            self._obey(desired)

    def _obey(self, desired: Desired) -> None:
        self._revision = desired.revision
        outcome = RevisionOutcome.REJECTED if self.refuses else RevisionOutcome.APPLIED
        if not self.refuses:
            if desired.settings.reset_generation > self._settings.reset_generation:
                self._states = [TensorState() for _ in self._parameters]
            self._settings = desired.settings
        report = AppliedReport(
            desired.revision, self.step, outcome, self._settings, time.time(), self.refuses or self.remark
        )
        self._batch(applied=[report])

    def _take_step(self) -> tuple[list[float], list[float]]:
        planted = self.step % 150 == 120
        outcomes, rows = [], []
        for index, (state, parameter) in enumerate(zip(self._states, self._parameters, strict=True)):
            norm = math.exp(self._random.gauss(0, 0.25)) * math.sqrt(parameter.numel) / 600
            norm *= 1 + 3 * math.exp(-self.step / 80)
            norm *= 60.0 if planted and index % 4 == 1 else 1.0
            outcome = advance(state, norm, self._settings, self._settings.mode)
            outcomes.append(outcome)
            rows += [norm, state.norm_mean, state.norm_rms, outcome.scale, outcome.spike_ratio]
        assert len(rows) == len(self._parameters) * len(ROW_COLUMNS)
        lowest = min(range(len(outcomes)), key=lambda index: outcomes[index].target)
        tallest = max(range(len(outcomes)), key=lambda index: outcomes[index].spike_ratio)
        values = {
            "loss": 1.6 + 4 * math.exp(-self.step / 200) + self._random.gauss(0, 0.05),
            "learning_rate": 3e-4 * min(1.0, (self.step + 1) / 100),
            "raw_norm": math.hypot(*(outcome.raw_norm for outcome in outcomes)),
            "stabilized_norm": math.hypot(*(outcome.stabilized_norm for outcome in outcomes)),
            "target_min": outcomes[lowest].target,
            "target_parameter": lowest,
            "spike_ratio_max": outcomes[tallest].spike_ratio,
            "spike_parameter": tallest,
            "spikes": sum(outcome.spike_ratio > SPIKE_RATIO for outcome in outcomes),
            "nonfinite": 0,
            "nonfinite_parameter": -1,
            "throttled": sum(is_throttled(outcome.target, outcome.calm_share) for outcome in outcomes),
            "loss_nonfinite": 0,
            "faded": sum(outcome.fade < 1 for outcome in outcomes),
        }
        if self.step in self._nan_losses:
            values |= {"loss": math.nan, "loss_nonfinite": 1}
        self.step += 1
        return [values[name] for name in SCALAR_COLUMNS], rows

    def _post(self, path: str, body: bytes, kind: str) -> bytes:
        headers = {"Authorization": f"Bearer {AGENT}", "Content-Type": kind}
        answer = self._http.request("POST", f"{self._server.server}/api/v1{path}", body=body, headers=headers)
        assert answer.status < 300, answer.data
        data: bytes = answer.data
        return data


class StartRun(Protocol):
    """Type of the fixture `start_run`."""

    def __call__(self, name: str, at: LocalStack | None = None, **options: Any) -> ScriptedRun: ...


class OpenPage(Protocol):
    """Type of the fixture `open_page`."""

    def __call__(
        self, run: str | None = None, token: str | None = OPERATOR, at: str | None = None, **query: str
    ) -> AppTest: ...
