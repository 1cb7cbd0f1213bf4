"""`steadynorm runs` and `show` on a job that trains."""

from __future__ import annotations

import io
import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from steadynorm_cli.commands import output
from steadynorm_cli.commands.runs import runs_table
from steadynorm_contract.fleet import FleetRun
from steadynorm_contract.incidents import IncidentState, IncidentStatus
from steadynorm_contract.runs import Applied, DesiredView, Health, RevisionState, RunCounters, RunState, RunSummary
from steadynorm_contract.settings import Settings

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.jobs import Job


def test_runs_lists_the_job_for_people_and_for_scripts(steadynorm: Command, job: Job) -> None:
    listed = steadynorm("runs")
    assert listed.returncode == 0, listed.stderr
    row = next(line for line in listed.stdout.splitlines() if job.run_id in line)
    assert "running" in row
    nothing = steadynorm("runs", "--state", "failed", "--name", job.run_id)
    assert re.fullmatch(r"no run matches, of \d+ on http://\S+\n", nothing.stderr)
    runs = json.loads(steadynorm("runs", "--json", "--state", "running").stdout)["runs"]
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


def summary(name: str, *, run_id: str = "", **changes: Any) -> RunSummary:
    """A run; calm unless `changes` say otherwise."""
    settings = Settings()
    calm: dict[str, Any] = {
        "state": RunState.RUNNING, "health": Health.CALM, "step": 123_456, "started": 0.0, "last_seen": time.time(),
        "loss": 2.451, "raw_norm": 0.0144, "target_min": 0.5, "counters": RunCounters(),
    }  # fmt: skip
    desired, applied = DesiredView(0, settings, RevisionState.APPLIED), Applied(0, 0, settings)
    return RunSummary(run_id=run_id or name, name=name, desired=desired, applied=applied, **(calm | changes))


def printed(listed: list[RunSummary], width: int, **options: Any) -> list[str]:
    """The lines of the table in a terminal of this width."""
    screen = Console(width=width, file=io.StringIO())
    with screen.capture() as capture:
        screen.print(runs_table(listed, width, **options))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_long_name_gives_way_and_what_matters_is_whole(width: int) -> None:
    long = "sweep-of-the-learning-rate-with-a-very-long-name-and-warmup-2000-lr-3e-4-seed-7"
    hostile = "[red]x[/red]\x1b[31m"
    listed = [
        summary(long, state=RunState.STALLED, health=Health.DISCONNECTED, last_seen=time.time() - 3 * 86_400),
        summary(hostile, state=RunState.FAILED, counters=RunCounters()),
    ]
    head, first, second = printed(listed, width)
    assert max(map(len, (head, first, second))) <= width
    assert head.split()[:6] == ["NAME", "STATE", "HEALTH", "STEP", "AGE", "SEEN"]
    assert re.search(r"^sweep-\S*…\S*-7 +stalled +disconnected +123456 +\d+ d +3 d", first)
    assert re.search(r" failed +failed +123456 +\d+ d +0 s", second)
    assert "\x1b" not in second
    assert ("LOSS" in head) == (width >= 80)
    whole = printed(listed, 10_000, every_column=True)
    assert long in whole[1]
    assert r"[red]x[/red]\x1b[31m" in whole[2]


def test_runs_of_one_name_are_told_apart_and_who_took_an_incident_is_named() -> None:
    taken = IncidentStatus(event="1-0", step=7, state=IncidentState.TAKEN, by="ada", time=0.0)
    closed = IncidentStatus(event="2-0", step=9, state=IncidentState.CLOSED, by="bob", time=0.0)
    lines = printed(
        [
            summary("gpt", run_id="gpt-1f2e", incidents=[closed, taken]),
            summary("gpt", run_id="gpt-3d4c"),
            summary("t5"),
        ],
        120,
    )
    assert [line.split()[0] for line in lines] == ["NAME", "gpt-1f2e", "gpt-3d4c", "t5"]
    assert "TAKEN BY" in lines[0]
    assert " ada " in lines[1]
    assert "bob" not in lines[1]


def test_the_numbers_of_a_column_have_one_notation() -> None:
    assert output.number_column([0.553, 0.0144, None, 2.0]) == ["0.5530", "0.0144", "-", "2.0000"]
    assert output.number_column([0.553, 9.8e-4]) == ["5.53e-01", "9.80e-04"]
    assert output.number_column([1234.5, 20_000.0, 0.0]) == ["1234", "20000", "0"]
    assert output.number_column([None]) == ["-"]


def test_an_ended_run_is_not_called_calm() -> None:
    for state, counters, shown in (
        (RunState.FAILED, RunCounters(), "failed"),
        (RunState.FINISHED, RunCounters(), "finished"),
        (RunState.FINISHED, RunCounters(nonfinite=3), "nonfinite"),
        (RunState.RUNNING, RunCounters(nonfinite=3), "calm"),
    ):
        assert printed([summary("r", state=state, counters=counters)], 80)[1].split()[2] == shown


def test_logged_scalars_are_columns_that_are_never_left_out(steadynorm: Command) -> None:
    run = summary("gpt")
    fields = {name: getattr(run, name) for name in run.__struct_fields__}
    listed: list[RunSummary] = [FleetRun(**fields, scalars={"eval/loss": 1.5}), FleetRun(**{**fields, "name": "t5"})]
    head, first, second = printed(listed, 90, scalars=["eval/loss", "[red]\x1b"])
    assert "eval/loss" in head
    assert r"[red]\x1b" in head
    assert re.search(r"\b1\.50\b", first)
    assert "1.5" not in second
    refused = steadynorm("runs", "--columns", "entropy", "--json")
    assert (refused.returncode, "--columns does not go with --json" in refused.stderr) == (2, True)
