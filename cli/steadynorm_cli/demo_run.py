"""The demo's training run: a small GPT in a process of its own; halfway a client changes gamma2 live.

    with Training(stack, steps=200) as training:
        for run in training.watch():        # the run as the server reports it, about ten times a second
            ...
    training.result()

Everything shown comes from the server, as an operator would see it; only the run's id is read from the training's
output.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec

from steadynorm_cli.errors import CommandError
from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.client import Client, Conflict, NotFound
from steadynorm_contract.runs import RevisionState, RunDetail, RunState
from steadynorm_contract.series import Series
from steadynorm_server.runtime.process import ManagedProcess

GAMMA2 = 0.99
REASON = "demo: shorter memory of the squared norm, halfway"
POLL_S = 0.1
START_S = 120.0  # until the training has imported torch and registered
LAST_TELEMETRY_S = 20.0


class Change(msgspec.Struct):
    """The live change: gamma2 `before` → GAMMA2. `step` is None until the job applied it."""

    revision: int
    before: float
    step: int | None = None


class Result(msgspec.Struct, kw_only=True):
    """The line that `--once` prints: the first and the last recorded loss, and the number of recorded steps."""

    run_id: str
    steps: int
    first_loss: float
    last_loss: float
    applied_revision: int
    applied_step: int
    server: str
    dashboard: str


def example() -> Path:
    """Path of the training script, in the checkout or installed. Raises CommandError if it or torch is missing."""
    if importlib.util.find_spec("torch") is None:
        raise CommandError("the demo trains with torch: pip install 'steadynorm[demo]'")
    here = Path(__file__).resolve()
    for path in (here.parents[2] / "examples" / "char_gpt.py", here.parent / "examples" / "char_gpt.py"):
        if path.is_file():
            return path
    raise CommandError("the demo's training script char_gpt.py is missing. Reinstall steadynorm.")


class Training:
    """The training process and its run on the server."""

    def __init__(self, stack: LocalStack, steps: int) -> None:
        self._stack = stack
        self._steps = steps
        self._client: Client = stack.client()
        self.run_id = ""
        self.change: Change | None = None
        self._ended: float | None = None  # when the process was first seen to have ended

    def __enter__(self) -> Self:
        argv = [sys.executable, str(example()), "--steps", str(self._steps), "--run", "demo"]
        argv += ["--server", self._stack.server]
        environment = {**self._stack.environment(), "PYTHONUNBUFFERED": "1"}  # so that its first line arrives at once
        environment.pop("STEADYNORM_RUN", None)
        # Server, dashboard and browser need cores too, and OpenMP's threads spin while they wait for a late one: on two
        # busy cores two threads took 0.55 s a step, one took 0.15 s.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
        self._child = ManagedProcess("training", argv, log=self._stack.logs / "demo.log", env=environment)
        return self

    def __exit__(self, *_: object) -> None:
        self._child.end()

    def watch(self) -> Iterator[RunDetail]:
        """The run, repeatedly, until the process has ended and all of its telemetry arrived.

        Makes the change when half of the steps are recorded. Raises CommandError when the training or the stack fails.
        """
        self.run_id = self._await_run_id()
        while True:
            status = self._child.returncode  # before the run is read, so that the last reading is after the end
            self._stack.check()
            if status not in (None, 0):
                raise CommandError(f"the training ended with status {status}:\n{self._child.tail()}")
            run = self._run()
            if run is not None:
                self._steer(run)
                yield run
                if status == 0 and run.state is not RunState.RUNNING:
                    return
            if status == 0:
                self._check_patience()
            time.sleep(POLL_S)

    def result(self) -> Result:
        """The result as the server recorded it. Raises CommandError when the change was not applied."""
        series = self._client.series(self.run_id, ["loss"], points=max(self._steps, 2)).series.get("loss")
        losses = _finite(series) if series else []
        if series is None or not losses:
            raise CommandError(f"the server recorded no loss of {self.run_id}: see {self._stack.logs / 'demo.log'}")
        if self.change is None or self.change.step is None:
            raise CommandError(
                f"the run ended before the change of gamma2 was applied. Use more steps: got --steps {self._steps}."
            )
        return Result(
            run_id=self.run_id,
            steps=sum(series.count),
            first_loss=losses[0],
            last_loss=losses[-1],
            applied_revision=self.change.revision,
            applied_step=self.change.step,
            server=self._stack.server,
            dashboard=self._stack.dashboard,
        )

    def _await_run_id(self) -> str:
        deadline = time.monotonic() + START_S
        while True:
            status = self._child.returncode
            if found := re.search(r"^run_id: (\S+)", self._child.tail(200), re.MULTILINE):
                return found[1]
            if status is not None:
                raise CommandError(f"the training ended with status {status}:\n{self._child.tail()}")
            if time.monotonic() > deadline:
                raise CommandError(f"the training did not start within {START_S:.0f} s:\n{self._child.tail()}")
            self._stack.check()
            time.sleep(POLL_S)

    def _run(self) -> RunDetail | None:
        try:
            return self._client.run(self.run_id)
        except NotFound:  # registered a moment later
            return None

    def _steer(self, run: RunDetail) -> None:
        if self.change is None and run.state is RunState.RUNNING and 2 * run.step >= self._steps:
            try:
                desired = self._client.change(
                    self.run_id, {"gamma2": GAMMA2}, revision=run.desired.revision, reason=REASON
                )
            except Conflict:  # changed in the dashboard at the same time: the next reading has that revision
                return
            self.change = Change(desired.revision, run.desired.settings.gamma2)
        elif self.change is not None and self.change.step is None and run.applied.revision >= self.change.revision:
            for entry in self._client.audit(self.run_id).entries:
                if entry.revision == self.change.revision and entry.state is RevisionState.APPLIED:
                    self.change.step = entry.applied_step

    def _check_patience(self) -> None:
        self._ended = self._ended or time.monotonic()
        if time.monotonic() - self._ended > LAST_TELEMETRY_S:
            raise CommandError(f"the training ended, but its run {self.run_id} never finished on {self._stack.server}.")


def _finite(series: Series) -> list[float]:
    return [value for value in series.mean if value is not None and math.isfinite(value)]
