"""The programs that the pages show are run, against a real server, in the form in which they are shown."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from tests.docs.test_recipes import ADDRESS, FRAMEWORKS
from tests.support.interpreter import Interpreter
from tests.support.jobs import RunJob
from tests.support.local_server import RunningStack
from tests.support.waiting import Eventually

from steadynorm_cli.ports import choose_port

ALONE = (
    "pytorch_loop", "pytorch_clipping", "pytorch_amp",
    "checkpoints", "preemption", "detach", "migrating", "own_scalars", "own_sink", "knobs", "stabilizer_alone", "fleet",
    "muon_adamw", "optimizer_in_backward",
)  # fmt: skip
OF_A_RUN = ("change_a_run", "live_control", "export_a_run")
RANKS = {
    "ddp": "ddp",
    "fsdp2": "llama",
    "recovery_ddp": "recovery-ddp",
    "reducing_optimizer": "reducing",
    "torchtitan_loop": "titan",
}
"""And what their runs are named."""
ELSEWHERE = {*FRAMEWORKS, "notebook_steps", "notebook_parameters", "notebook_polars", "receive_webhook"}
"""Run by the tests of the recipes, and by those of the export and of webhooks, which make what they read."""


def execute(path: Path, server: str, **replaced: str) -> None:
    """Run a program's text with the server's address in place of the usual one."""
    text = path.read_text("utf-8").replace(ADDRESS, server)
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    exec(compile(text, str(path), "exec"), {"__name__": "__main__", "__file__": str(path)})


def test_every_snippet_is_run(root: Path) -> None:
    known = {*ALONE, *OF_A_RUN, *RANKS, *ELSEWHERE}
    assert {path.stem for path in (root / "docs" / "snippets").glob("*.py")} == known


@pytest.mark.parametrize("name", ALONE)
def test_a_snippet_runs_without_a_warning(
    here: RunningStack, root: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    execute(root / "docs" / "snippets" / f"{name}.py", here.server)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in warnings if name != "detach"] == []


@pytest.mark.parametrize("name", OF_A_RUN)
def test_a_snippet_about_a_run_runs(
    here: RunningStack, root: Path, name: str, run_job: RunJob, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    named = f"docs-{name.replace('_', '-')}"
    with run_job(here, named) as job:
        eventually(lambda: any(run.step > 0 for run in here.client.runs(name=named).runs))
        monkeypatch.setenv("RUN_ID", job.run_id)
        execute(root / "docs" / "snippets" / f"{name}.py", here.server)
        run = here.client.run(job.run_id)
        if name == "change_a_run":
            assert run.desired.settings.lr_scale == 0.5
        elif name == "live_control":
            assert [each.rule.id for each in here.client.rules(job.run_id).rules] == ["broken"]
            assert [each.from_step for each in here.client.schedules(job.run_id).schedules] == [10_000]
        else:
            assert Path("steps.parquet").read_bytes()[:4] == b"PAR1"


@pytest.mark.parametrize("name", RANKS)
def test_a_snippet_for_ranks_runs_on_two(here: RunningStack, root: Path, name: str, python: Interpreter) -> None:
    """With the variables that `torchrun --nproc-per-node 2` sets."""
    port = choose_port("127.0.0.1", 0, 0, print)
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    snippet = str(root / "docs" / "snippets" / f"{name}.py")
    ranks = [
        python.start(
            snippet,
            env={**os.environ, **variables, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
        )
        for rank in "01"
    ]  # fmt: skip
    for ended in [rank.result(300) for rank in ranks]:
        assert ended.returncode == 0, ended.stderr
    runs = here.client.runs(name=RANKS[name]).runs
    variants = Path(snippet).read_text("utf-8").count("steadynorm.attach(")
    assert [run.state.value for run in runs] == ["finished"] * variants


def test_the_quick_start_shows_what_its_page_says(here: RunningStack, root: Path) -> None:
    execute(root / "examples" / "quickstart_train.py", here.server, **{"5001": "1101", "time.sleep(0.01)": "pass"})
    (run,) = here.client.runs(name="quickstart").runs
    assert (run.state.value, run.step) == ("finished", 1100)
    events = [(event.kind.value, event.step) for event in here.client.events(run.run_id).events]
    assert ("spike", 1000) in events
    assert not [step for kind, step in events if kind == "throttled"], "the default keeps the spike out"
