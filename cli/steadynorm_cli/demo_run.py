"""The demo's training runs: small GPTs in processes of their own, as the server reports them.

    with Training(stack, steps=200) as training:
        for run in training.watch():        # the run as the server reports it, about ten times a second
            ...
    training.result()

Halfway a client changes gamma2 live. `PoisonedTraining` is the second act: a run that meets garbage batches.

Everything shown comes from the server, as an operator would see it; only the run's id is read from the training's
output.
"""

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
from steadynorm_contract.events import EventKind
from steadynorm_contract.runs import RevisionState, RunDetail, RunState
from steadynorm_contract.series import Series
from steadynorm_server.runtime.process import ManagedProcess

GAMMA2 = 0.99
REASON = "demo: shorter memory of the squared norm, halfway"
POLL_S = 0.1
START_S = 120.0  # until the training has imported torch and registered
LAST_TELEMETRY_S = 20.0
LEAST_S, LEAST_STEP_S = 10.0, 0.03  # a fast machine leaves time to look, to move a slider and to see it applied


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


class Rollback(msgspec.Struct):
    """One of a run's rollbacks: the step at which it was made, that of the snapshot, and why."""

    step: int
    to_step: int
    message: str


class PoisonedResult(msgspec.Struct, kw_only=True):
    """One run through the garbage batches. `last_loss`: mean of the last tenth of its steps."""

    run_id: str
    last_loss: float
    rollbacks: list[Rollback]


def example(name: str = "char_gpt.py") -> Path:
    """Path of a training script, in the checkout or installed. Raises CommandError if it or torch is missing."""
    if importlib.util.find_spec("torch") is None:
        raise CommandError("the demo trains with torch: pip install 'steadynorm[demo]'")
    here = Path(__file__).resolve()
    for path in (here.parents[2] / "examples" / name, here.parent / "examples" / name):
        if path.is_file():
            return path
    raise CommandError(f"the demo's training script {name} is missing. Reinstall steadynorm.")


class _Process:
    """A training process and its run on the server. argv: the script and its arguments without the server's."""

    def __init__(self, stack: LocalStack, steps: int, argv: list[str]) -> None:
        self._stack = stack
        self._steps = steps
        self._argv = argv
        self._client: Client = stack.client()
        self.run_id = ""
        self._ended: float | None = None  # when the process was first seen to have ended

    def __enter__(self) -> Self:
        argv = [sys.executable, *self._argv, "--steps", str(self._steps), "--server", self._stack.server]
        argv += ["--least-seconds", str(max(LEAST_S, LEAST_STEP_S * self._steps))]
        environment = {**self._stack.environment(), "PYTHONUNBUFFERED": "1"}  # so that its first line arrives at once
        environment.pop("STEADYNORM_RUN", None)
        # Server, dashboard and browser need cores too, and OpenMP's threads spin while they wait for a late one: on two
        # busy cores two threads took 0.55 s a step, one took 0.15 s.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
        self._child = ManagedProcess("training", argv, log=self._stack.logs / "demo.log", env=environment)
        return self

    def __exit__(self, *_: object) -> None:
        self._child.end(interrupt=True)  # so that its agent says why the run ended

    def watch(self) -> Iterator[RunDetail]:
        """The run, repeatedly, until the process has ended and all of its telemetry arrived.

        Raises CommandError when the training or the stack fails.
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
        """Called with each reading of the run, before it is shown."""

    def _losses(self) -> tuple[Series, list[float]]:
        """The recorded loss, and its finite values. Raises CommandError where nothing was recorded."""
        series = self._client.series(self.run_id, ["loss"], points=max(self._steps, 2)).series.get("loss")
        losses = [value for value in series.mean if value is not None and math.isfinite(value)] if series else []
        if series is None or not losses:
            raise CommandError(f"the server recorded no loss of {self.run_id}: see {self._stack.logs / 'demo.log'}")
        return series, losses

    def _check_patience(self) -> None:
        self._ended = self._ended or time.monotonic()
        if time.monotonic() - self._ended > LAST_TELEMETRY_S:
            raise CommandError(f"the training ended, but its run {self.run_id} never finished on {self._stack.server}.")


class Training(_Process):
    """The first act: a run that is changed when half of its steps are recorded."""

    def __init__(self, stack: LocalStack, steps: int) -> None:
        super().__init__(stack, steps, [str(example()), "--run", "demo"])
        self.change: Change | None = None

    def result(self) -> Result:
        """The result as the server recorded it. Raises CommandError when the change was not applied."""
        series, losses = self._losses()
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


class PoisonedTraining(_Process):
    """The second act: a run that meets garbage batches halfway. recovers: whether its agent rolls it back."""

    def __init__(self, stack: LocalStack, steps: int, *, recovers: bool) -> None:
        mode, name = ("act", "demo-recovered") if recovers else ("off", "demo-poisoned")
        super().__init__(stack, steps, [str(example("poisoned_gpt.py")), "--run", name, "--recovery", mode])

    def rollbacks(self) -> list[Rollback]:
        """What the server knows of, oldest first."""
        events = self._client.events(self.run_id).events
        found = [event for event in reversed(events) if event.kind is EventKind.ROLLBACK]
        return [Rollback(event.step, int(event.value or 0), event.message) for event in found]

    def result(self) -> PoisonedResult:
        """The result as the server recorded it. Raises CommandError where nothing was recorded."""
        _, losses = self._losses()
        last = losses[-max(1, len(losses) // 10) :]
        return PoisonedResult(run_id=self.run_id, last_loss=sum(last) / len(last), rollbacks=self.rollbacks())
