"""`steadynorm runs` and `show` on a job that trains."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.jobs import Job


def test_runs_lists_the_job_for_people_and_for_scripts(steadynorm: Command, job: Job) -> None:
    listed = steadynorm("runs")
    assert listed.returncode == 0, listed.stderr
    row = next(line for line in listed.stdout.splitlines() if job.run_id in line)
    assert "running" in row
    runs = json.loads(steadynorm("runs", "--json").stdout)["runs"]
    mine = next(run for run in runs if run["run_id"] == job.run_id)
    assert mine["step"] > 0
    assert mine["applied"]["settings"]["gamma2"] == 0.999


def test_show_tells_settings_changes_and_events(steadynorm: Command, job: Job) -> None:
    assert steadynorm("set", job.run_id, "gamma2=0.99", "--reason", "to be seen").returncode == 0
    shown = steadynorm("show", job.run_id)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"gamma2\s+0\.99\b", shown.stdout)
    assert "gamma2 0.999 → 0.99: applied at step" in shown.stdout
    assert "to be seen" in shown.stdout
    detail = json.loads(steadynorm("show", job.run_id, "--json").stdout)
    assert detail["applied"]["revision"] == detail["desired"]["revision"] == 1
    assert detail["parameters"] == 4
