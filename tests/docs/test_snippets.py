"""The programs that the pages show are run, against a real server, in the form in which they are shown."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.jobs import RunJob
from tests.support.local_server import RunningHouse
from tests.support.waiting import Eventually

ADDRESS = "http://127.0.0.1:8470"
ALONE = (
    "pytorch_loop", "pytorch_clipping", "pytorch_amp",
    "checkpoints", "detach", "migrating", "stabilizer_alone", "fleet",
)  # fmt: skip
OF_A_RUN = ("change_a_run", "live_control", "export_a_run")
FRAMEWORKS = ("lightning_trainer", "transformers_trainer", "accelerate_loop")
RANKS = ("ddp", "fsdp2")
ELSEWHERE = {"notebook_steps", "notebook_parameters", "receive_webhook"}
"""Run by the tests of the export and of webhooks, which make what they read."""


@pytest.fixture
def here(house: RunningHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunningHouse:
    """The server, found as a user's program finds it, from a folder of this test's own."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("STEADYNORM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STEADYNORM_HOME", str(house.home))
    monkeypatch.setenv("STEADYNORM_SERVER", house.server)
    return house


def execute(path: Path, server: str, **replaced: str) -> None:
    """Run a program's text with the server's address in place of the usual one."""
    text = path.read_text("utf-8").replace(ADDRESS, server)
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    exec(compile(text, str(path), "exec"), {"__name__": "__main__", "__file__": str(path)})


def test_every_snippet_is_run(root: Path) -> None:
    known = {*ALONE, *OF_A_RUN, *FRAMEWORKS, *RANKS, *ELSEWHERE}
    assert {path.stem for path in (root / "docs" / "snippets").glob("*.py")} == known


@pytest.mark.parametrize("name", ALONE)
def test_a_snippet_runs_without_a_warning(
    here: RunningHouse, root: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    execute(root / "docs" / "snippets" / f"{name}.py", here.server)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in warnings if name != "detach"] == []


@pytest.mark.parametrize("name", OF_A_RUN)
def test_a_snippet_about_a_run_runs(
    here: RunningHouse, root: Path, name: str, run_job: RunJob, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    named = f"docs-{name.replace('_', '-')}"
    with run_job(here, named) as job:
        eventually(lambda: any(run.step > 0 for run in here.client.runs(name=named).runs))
        monkeypatch.setenv("RUN_ID", job.run_id)
        execute(root / "docs" / "snippets" / f"{name}.py", here.server)
        run = here.client.run(job.run_id)
        if name == "change_a_run":
            assert run.desired.settings.spike_limit == 3.0
        elif name == "live_control":
            assert [each.rule.id for each in here.client.rules(job.run_id).rules] == ["broken"]
            assert [each.from_step for each in here.client.schedules(job.run_id).schedules] == [10_000]
        else:
            assert Path("steps.parquet").read_bytes()[:4] == b"PAR1"


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_snippet_for_a_framework_runs_and_no_clip_is_warned_of(here: RunningHouse, root: Path, name: str) -> None:
    text = (root / "docs" / "snippets" / f"{name}.py").read_text("utf-8").replace(ADDRESS, here.server)
    Path("program.py").write_text(text)
    ended = subprocess.run(
        [sys.executable, "program.py"], capture_output=True, text=True, timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "takes back what the" not in ended.stderr


@pytest.mark.parametrize("name", RANKS)
def test_a_snippet_for_ranks_runs_on_two(here: RunningHouse, root: Path, name: str) -> None:
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            str(root / "docs" / "snippets" / f"{name}.py"),
        ],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    runs = here.client.runs(name={"ddp": "ddp", "fsdp2": "llama"}[name]).runs
    assert [run.state.value for run in runs] == ["finished"]


def test_the_quick_start_shows_what_its_page_says(here: RunningHouse, root: Path) -> None:
    execute(root / "examples" / "quickstart_train.py", here.server, **{"5001": "1101", "time.sleep(0.01)": "pass"})
    (run,) = here.client.runs(name="quickstart").runs
    assert (run.state.value, run.step) == ("finished", 1100)
    events = [(event.kind.value, event.step) for event in here.client.events(run.run_id).events]
    assert ("spike", 1000) in events
    assert [step for kind, step in events if kind == "throttled" and step > 1000]
