"""The demo as a newcomer runs it: everything from one command, and the result as one line."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from steadynorm_contract.client import Client
from steadynorm_contract.discovery import read_address

if TYPE_CHECKING:
    from tests.support.local_server import RunningStack

STEPS = 60


@pytest.fixture
def environment(stack: RunningStack, tmp_path: Path) -> dict[str, str]:
    """Of a user whose server, the session's, has a dashboard, so that the demo starts none, which takes seconds."""
    address = read_address(stack.home)
    assert address is not None
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(stack.token, "ascii")
    (home / "server.json").write_bytes(
        msgspec.json.encode(msgspec.structs.replace(address, dashboard="http://127.0.0.1:1"))
    )
    return {**stack.environment, "STEADYNORM_HOME": str(home)}


def run_demo(environment: dict[str, str], steps: int = STEPS, *options: str) -> subprocess.CompletedProcess[str]:
    """`steadynorm demo --once`."""
    command = [sys.executable, "-m", "steadynorm_cli", "demo", "--once", "--steps", str(steps), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200, check=False)


def test_the_demo_trains_is_changed_live_and_tells_its_result(stack: RunningStack) -> None:
    """Uses the session's server, as it would one that its user has running."""
    ended = run_demo(stack.environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert set(result) == {
        "run_id", "steps", "first_loss", "last_loss", "applied_revision", "applied_step", "server", "dashboard",
    }  # fmt: skip
    assert result["steps"] == STEPS
    assert result["first_loss"] - result["last_loss"] > 0.5
    assert result["applied_revision"] >= 1
    assert STEPS / 2 <= result["applied_step"] <= STEPS
    assert f"gamma2 0.999 → 0.99: applied at step {result['applied_step']}" in ended.stdout
    link = rf"{re.escape(result['dashboard'])}/link/\S+\?run={re.escape(result['run_id'])}"
    assert re.search(rf"watch it   {link}\n +\(this link signs you in once", ended.stdout)

    assert result["server"] == stack.server
    run = stack.client.run(result["run_id"])
    assert (run.name, run.state, run.step) == ("demo", "finished", STEPS)
    assert run.applied.settings.gamma2 == 0.99
    series = stack.client.series(run.run_id, ["loss", "raw_norm"], points=STEPS).series
    assert sum(series["loss"].count) == STEPS
    assert all(value is not None and math.isfinite(value) for value in series["raw_norm"].mean)
    assert stack.client.audit(run.run_id).entries[0].applied_step == result["applied_step"]


def test_the_second_act_rolls_a_run_back_and_tells_both_losses(
    stack: RunningStack, environment: dict[str, str]
) -> None:
    ended = run_demo(environment, 300, "--spike")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    untouched, recovered = result["untouched"], result["recovered"]
    assert untouched["rollbacks"] == []
    first = recovered["rollbacks"][0]
    assert 150 < first["step"] <= 165
    assert first["to_step"] < 150
    assert first["message"] in ended.stdout
    assert untouched["last_loss"] - recovered["last_loss"] > 0.5
    losses = f"{untouched['last_loss']:.3f} untouched, {recovered['last_loss']:.3f} rolled back"
    assert f"loss at the end: {losses}" in ended.stdout
    notes = stack.client.notes(recovered["run_id"]).notes  # the marks on the charts
    assert first["step"] in [note.step for note in notes]

    early = run_demo(environment, 299, "--spike")
    assert (early.returncode, "at least 300" in early.stderr) == (1, True)


def test_a_training_that_fails_is_reported_with_its_last_words(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('this torch is broken')\n", "utf-8")
    ended = run_demo({**environment, "PYTHONPATH": str(tmp_path)})
    assert ended.returncode == 1
    assert "the training ended with status 1" in ended.stderr
    assert "this torch is broken" in ended.stderr
    assert "{" not in ended.stdout


def test_a_demo_that_is_interrupted_leaves_a_run_that_was_stopped(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "steadynorm_cli", "demo", "--once", "--steps", "100000"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        run_id = next(found[1] for line in demo.stdout if (found := re.search(r"\?run=(\S+)", line)))
        demo.send_signal(signal.SIGINT)
        assert "stopped before the run ended" in demo.stdout.read()
    assert demo.returncode == 130
    address = read_address(Path(environment["STEADYNORM_HOME"]))
    assert address is not None
    run = Client(address.server, (Path(environment["STEADYNORM_HOME"]) / "token").read_text("ascii")).run(run_id)
    assert (run.state, run.end_reason) == ("stopped", "interrupted from the keyboard")
