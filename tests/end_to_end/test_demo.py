"""The demo as a newcomer runs it: everything from one command, and the result as one line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.local_server import RunningHouse

STEPS = 60


def run_demo(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`steadynorm demo --once`."""
    # One thread: a machine with many cores would have trained before anybody could change anything.
    environment = {**environment, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "steadynorm_cli", "demo", "--once", "--steps", str(STEPS)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_the_demo_trains_is_changed_live_and_tells_its_result(house: RunningHouse) -> None:
    """Uses the session's server, as it would one that its user has running."""
    ended = run_demo(house.environment)
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
    assert f"{result['dashboard']}/?run={result['run_id']}" in ended.stdout

    assert result["server"] == house.server
    run = house.client.run(result["run_id"])
    assert (run.name, run.state, run.step) == ("demo", "finished", STEPS)
    assert run.applied.settings.gamma2 == 0.99
    series = house.client.series(run.run_id, ["loss", "raw_norm"], points=STEPS).series
    assert sum(series["loss"].count) == STEPS
    assert all(value is not None and math.isfinite(value) for value in series["raw_norm"].mean)
    assert house.client.audit(run.run_id).entries[0].applied_step == result["applied_step"]


def test_a_training_that_fails_is_reported_with_its_last_words(house: RunningHouse, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('this torch is broken')\n", "utf-8")
    ended = run_demo({**house.environment, "PYTHONPATH": str(tmp_path)})
    assert ended.returncode == 1
    assert "the training ended with status 1" in ended.stderr
    assert "this torch is broken" in ended.stderr
    assert "{" not in ended.stdout
