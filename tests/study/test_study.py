"""The study's pipeline: every question from trials to page in a miniature, ended and gone on with; and its parts."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "research"))

from study import methods, optimizers, plan, precision, report  # noqa: E402
from study.__main__ import main  # noqa: E402
from study.answers import ANSWERS, lost  # noqa: E402
from study.faults import Fault  # noqa: E402
from study.questions import FULL, QUESTIONS, QUICK  # noqa: E402
from study.run import run  # noqa: E402
from study.runner import file_of, missing  # noqa: E402
from study.spike_answers import recovery, spikes, theory  # noqa: E402
from study.tables import identity, with_spread  # noqa: E402
from study.tasks.control import ENVIRONMENTS, Control  # noqa: E402
from study.tasks.registry import TASKS  # noqa: E402
from study.trial import Outcome, Trial, append, read  # noqa: E402

BASE = Trial("rates", "digits-cnn", "adamw", "nothing", 3e-3, 20, 0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small for two, which would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature, run as people run it."""
    folder = tmp_path_factory.mktemp("study")
    ended = subprocess.run(
        [sys.executable, "-W", "error", "research/study", "--quick", "--out", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return folder


def test_workers_end_with_the_one_who_started_them(python: Any, eventually: Any) -> None:
    program = """
import os, signal, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
sys.path.insert(0, sys.argv[1])
from study.runner import _prepare
pool = ProcessPoolExecutor(1, get_context("fork"), _prepare, (os.getpid(),))
print(pool.submit(os.getpid).result(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = python.run("-c", program, str(ROOT / "research"))
    assert ended.returncode == -9, ended.stderr
    worker = Path(f"/proc/{int(ended.stdout)}/stat")
    eventually(lambda: not worker.exists() or worker.read_text("ascii").split()[2] == "Z")


def test_every_question_gets_its_rows_its_tables_and_its_pictures(results: Path) -> None:
    page = (results / "study.md").read_text("utf-8")
    for name, question in QUESTIONS.items():
        assert len(read(file_of(results, name))) == len({trial.key for trial in question.trials(QUICK)})
        section = page.split(f"{question.title}\n", 1)[1].split("\n## ", 1)[0]
        assert "|---|---:|" in section, name
    assert "Not measured yet" not in page
    assert "more are owed" not in page
    pictures = sorted((results / "images" / "study").iterdir())
    assert {file.stem for file in pictures} == {name.replace(" ", "-") for name in QUESTIONS}
    for file in pictures:
        assert f"images/study/{file.name}" in page
        assert ElementTree.parse(file).getroot().findall(".//{http://www.w3.org/2000/svg}path")


def test_the_same_rows_make_the_same_page(results: Path, tmp_path: Path) -> None:
    report.write(results, tmp_path / "study.md", QUICK)
    assert (tmp_path / "study.md").read_bytes() == (results / "study.md").read_bytes()


def test_a_cell_is_repeated_by_its_fields_and_shown_beside_its_rows(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--quick", "--out", str(results), "--workers", "0", "--questions", "spikes", "--repeat"]
    before = file_of(results, "spikes").read_bytes()
    assert main([*options, "task=digits-cnn", "method=paper", "lr=3e-3", "fault=100/all/random/5"]) == 0
    head, _, line = capsys.readouterr().out.splitlines()[:3]
    assert head == "| seed | score in the row | score now |"
    seed, row, now = (cell.strip() for cell in line.strip("|").split("|"))
    assert (seed, now) == ("0", row)
    assert file_of(results, "spikes").read_bytes() == before
    for wanted, told in (("rate=1", "a field is one of question, task"), ("method=clip 3", "'nothing', 'paper': got")):
        with pytest.raises(SystemExit):
            main([*options, wanted])
        assert told in capsys.readouterr().err


def test_a_study_that_was_ended_goes_on_with_what_has_no_whole_row(results: Path, tmp_path: Path) -> None:
    trials = list(QUESTIONS["rates"].trials(QUICK))
    assert missing(results, trials) == []
    text = file_of(results, "rates").read_text("utf-8")
    file_of(tmp_path, "rates").write_text(text[: text.rindex(",", 0, len(text) - 40)], "utf-8")
    (left,) = missing(tmp_path, trials)
    last, _ = read(file_of(results, "rates"))[-1]
    assert left == last, "of two processes the last to end need not be the last to begin"
    report.write(tmp_path, tmp_path / "study.md", QUICK)
    assert "**1 more are owed**: `python research/study --questions 'rates'`" in (tmp_path / "study.md").read_text()
    append(file_of(tmp_path, "rates"), left, run(left))
    assert missing(tmp_path, trials) == []


def test_a_study_that_was_ended_before_a_runs_twin_has_its_page_all_the_same(results: Path, tmp_path: Path) -> None:
    for name in ("spikes", "throttling", "switching"):
        head, *rows = file_of(results, name).read_text("utf-8").splitlines(keepends=True)
        kept = [row for row in rows if "/kept/" in row or "/random/" in row or "/bumpless" in row or "/plain" in row]
        assert 0 < len(kept) < len(rows)
        file_of(tmp_path, name).write_text(head + "".join(kept), "utf-8")
    report.write(tmp_path, tmp_path / "study.md", QUICK)
    page = (tmp_path / "study.md").read_text("utf-8")
    assert "4 more are owed" in page.split(QUESTIONS["switching"].title, 1)[1]


def test_a_row_comes_back_as_it_was_written(tmp_path: Path) -> None:
    outcome = Outcome(math.inf, 2.5, math.nan, True, 3, 0, math.inf, 0.25, "2.5;nan")
    append(tmp_path / "rates.csv", BASE, outcome)
    ((trial, found),) = read(tmp_path / "rates.csv")
    assert trial == BASE
    assert (found.score, found.diverged, found.seconds, found.curve) == (math.inf, True, 0.25, "2.5;nan")
    assert math.isnan(found.losses()[1])


def test_all_of_it_fits_in_three_hours_on_two_cores_and_the_miniature_in_five_minutes() -> None:
    for scale, limit_s in ((FULL, 10_800), (QUICK, 300)):
        trials = {trial.key: trial for question in QUESTIONS.values() for trial in question.trials(scale)}
        assert sum(map(plan.seconds, trials.values())) / 2 < limit_s
    full = [trial for question in QUESTIONS.values() for trial in question.trials(FULL)]
    assert {trial.seed for trial in full if trial.question != "early warning"} == set(range(5))
    assert {trial.method for trial in full} == set(methods.METHODS)
    assert {trial.task for trial in full} == set(FULL.tasks)


@pytest.mark.parametrize("task", FULL.tasks)
def test_every_task_trains_and_every_method_begins_from_the_same_weights_and_batches(task: str) -> None:
    trial = Trial("rates", task, "adamw", "nothing", TASKS[task].rates["adamw"], 1, 3)
    begun = [run(trial).first, run(replace(trial, method="paper")).first]
    assert begun[0] == begun[1]
    assert math.isfinite(run(replace(trial, steps=2)).score)


def test_policies_learn_to_balance_a_pole_and_no_step_of_theirs_is_a_reset() -> None:
    """In gymnasium's own mode an episode is followed by a step whose action is ignored and whose reward is 0."""
    assert run(Trial("rates", "cartpole", "adamw", "nothing", 1e-2, TASKS["cartpole"].steps, 0)).score < -400
    games = Control("cpu", pendulum=True)._games  # whose episodes have 200 steps
    still = torch.zeros(ENVIRONMENTS, 1).numpy()
    assert [step for step in range(1, 401) if games.step(still)[3].all()] == [200, 400]


@pytest.mark.parametrize("method", [each for each in methods.METHODS if each not in {"stable-adamw", "skip step"}])
def test_no_method_lets_a_planted_spike_pass_larger_than_nothing_does(method: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    acting = methods.make(method, model.named_parameters())
    for step in range(40):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape) / parameter.numel() ** 0.5
        if step == 39:
            Fault.parse("1000/all/kept/39").plant(39, list(model.parameters()), torch.Generator())  # type: ignore[union-attr]
            before = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        acting.apply()
    after = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norms = [(float(one.norm()), float(other.norm())) for one, other in zip(after, before, strict=True)]
    if method == "nothing":
        assert all(one == other for one, other in norms)
    else:
        assert all(one < 0.15 * other for one, other in norms)
    if method not in ("value clip 0.1", "stable-spam"):  # which are known to turn gradients
        for one, other in zip(after, before, strict=True):
            assert torch.cosine_similarity(one.flatten(), other.flatten(), dim=0) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("extent", "hit"), [("one", 1), ("30%", 3), ("all", 10)])
def test_a_fault_makes_as_many_tensors_as_it_says_that_much_larger(extent: str, hit: int) -> None:
    parameters = [nn.Parameter(torch.zeros(5)) for _ in range(10)]
    for parameter in parameters:
        parameter.grad = torch.ones(5)
    fault = Fault.parse(f"100/{extent}/random/7")
    assert fault is not None
    fault.plant(6, parameters, torch.Generator().manual_seed(0))
    assert all(float(p.grad.norm()) == pytest.approx(5**0.5) for p in parameters if p.grad is not None)
    fault.plant(7, parameters, torch.Generator().manual_seed(0))
    norms = [float(p.grad.norm()) for p in parameters if p.grad is not None]
    assert sum(norm == pytest.approx(100 * 5**0.5, rel=1e-4) for norm in norms) == hit
    assert sum(norm == pytest.approx(5**0.5) for norm in norms) == 10 - hit


def test_a_fault_of_one_tensor_hits_a_matrix_and_no_bias() -> None:
    for seed in range(20):
        parameters = [nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(5, 5)), nn.Parameter(torch.zeros(5))]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        Fault.parse("100/one/kept/0").plant(0, parameters, torch.Generator().manual_seed(seed))  # type: ignore[union-attr]
        assert [float(p.grad.max()) for p in parameters if p.grad is not None] == [1, 100, 1]


def test_fp4_takes_the_nearest_of_its_sixteen_numbers_and_lets_gradients_through() -> None:
    values = torch.tensor([[6.0, -6.0, 0.2, 0.3, 2.4, 2.6, -3.6, 5.1, 0.0]], requires_grad=True)
    rounded = precision.fp4(values)
    assert rounded.tolist() == [[6.0, -6.0, 0.0, 0.5, 2.0, 3.0, -4.0, 6.0, 0.0]]
    rounded.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[1.0] * 9]


def test_lion_steps_by_the_sign_of_its_momentum_and_decays_apart_from_it() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    optimizer = optimizers.make("lion", [parameter], 0.1, 0.5)
    parameter.grad = torch.tensor([3.0, -0.001, 0.0])
    optimizer.step()
    assert parameter.tolist() == pytest.approx([0.85, 1.05, 0.95])
    parameter.grad = torch.tensor([-0.01, 0.0, 0.0])  # 0.9 · 0.03 outweighs 0.1 · 0.01
    optimizer.step()
    assert parameter[0].item() == pytest.approx(0.85 * 0.95 - 0.1)


def test_what_throttles_in_theory_is_the_rule_itself() -> None:
    # Long after the start, v after the spike is 1 + 0.001 · A² · 0.999^k of a calm square: too large over 1 / 0.09. The
    # mean norm, large as well in the first steps, takes some of them away.
    expected = math.log(0.001 * 1e6 / (1 / 0.09 - 1)) / -math.log(0.999)
    assert theory("paper", 1000, 20_000, 100_000) == pytest.approx(expected, rel=0.01)
    assert theory("paper", 1000, 20_000, 50) == pytest.approx(50, abs=10)
    assert theory("paper, limit 10", 1000, 200, 1000) == 0
    assert theory("paper", 10, 200, 1000) == 0
    # Reset before the tenth step after it: from then on nothing is left of the spike.
    assert 0 < theory("paper", 1000, 200, 9) == theory("paper", 1000, 200, 1000, reset_after=10) < 9


def test_the_published_page_is_what_the_published_rows_make(tmp_path: Path) -> None:
    study = ROOT / "research" / "study"
    report.write(study / "results", tmp_path / "study.md", FULL, gpu=study / "results-gpu")
    assert (tmp_path / "study.md").read_text("utf-8") == (ROOT / "docs" / "study.md").read_text("utf-8")
    for picture in (tmp_path / "images" / "study").iterdir():
        assert picture.read_bytes() == (ROOT / "docs" / "images" / "study" / picture.name).read_bytes()


def test_a_run_is_lost_by_a_loss_that_is_not_finite_or_by_ending_worse_than_untrained() -> None:
    well = Outcome(2.0, 3.0, 2.0, False, 0, 0, 1, 1, "3")
    assert not lost(BASE, well, 3.0)
    assert lost(BASE, replace(well, score=3.1), 3.0)
    assert lost(BASE, replace(well, bad_steps=1), 3.0)
    assert lost(BASE, replace(well, diverged=True, score=math.inf), 3.0)
    assert not lost(replace(BASE, task="pendulum"), replace(well, score=1300), 1200)


def test_recovery_is_when_the_loss_is_back_at_that_of_the_run_without_the_spike() -> None:
    spiked = replace(BASE, steps=60, fault="100/all/kept/30")
    calm = Outcome(1, 4, 2, False, 0, 0, 1, 1, "4;3;2;2;2;2")
    late = Outcome(1, 4, 2, False, 0, 0, 1, 1, "4;3;2;9;3;2")
    never = Outcome(1, 4, 2, False, 0, 0, 1, 1, "4;3;2;9;9;9")
    behind = Outcome(1, 4, 2, False, 0, 0, 1, 1, "4;3;2;2;2;3")
    ended = Outcome(math.inf, 4, math.nan, True, 1, 0, 1, 1, "4;3;2;2;nan")
    assert recovery(spiked, late, calm) == 20
    assert recovery(spiked, never, calm) == recovery(spiked, behind, calm) == recovery(spiked, ended, calm) == math.inf
    assert recovery(spiked, calm, calm) == 0
    whole = replace(spiked, fault="")
    assert "| 100×, all, kept | 20 |" in spikes([(whole, calm), (spiked, late)]).text
    assert "| 100×, all, kept | > 30 |" in spikes([(whole, calm), (spiked, never)]).text
    assert identity(spiked, "fault", "steps") == identity(BASE, "fault", "steps")


def test_what_is_left_of_the_way_is_a_mean_over_rates_in_which_a_run_that_diverged_has_all_of_it_left() -> None:
    def row(method: str, lr: float, score: float) -> tuple[Trial, Outcome]:
        trial = replace(BASE, method=method, lr=lr)
        return trial, Outcome(score, 3.0, score, not math.isfinite(score), 0, 0, 1, 1, "3")

    rows = [row("nothing", 0.1, 1.0), row("nothing", 1.0, math.inf), row("paper", 0.1, 1.12), row("paper", 1.0, 2.0)]
    text = ANSWERS["rates"](rows).text
    assert "| nothing | 50 | 50 |  |" in text
    assert "| paper | 28 | 28 | -22 |" in text
    assert "| nothing | 1 | 1 | 1 | 1 |" in text  # within 5, 10 and 20 %
    assert "| paper | 1 | 0 | 1 | 1 |" in text
    # At the best rate of nothing 6 % more are left, at the faster one half of what is left of a run that diverged.
    assert "| method | slower | best | faster | seeds better at faster |" in text
    assert "| paper |  | +6 | -50 | 1 of 1 |" in text
    assert "2 differences, not corrected for their number" in text


def test_a_cell_shows_two_digits_of_the_spread_and_as_many_places_of_the_mean() -> None:
    assert with_spread([1.0, 2.0, 3.0]) == "2.0 ± 1.0"
    assert with_spread([2.04, 2.05, 2.06]) == "2.050 ± 0.010"
    assert with_spread([5000.0, 6000.0], sign=True) == "+5,500 ± 707"
    assert with_spread([-1e-17, 1e-17, 0.0], sign=True) == "0.0000 ± 0.0000"
    assert with_spread([-1234.0]) == "-1,234"


def test_a_cell_says_how_many_runs_were_lost() -> None:
    assert with_spread([1.0, math.inf, 3.0]) == "2.0 ± 1.4 (1 of 3 diverged)"
    assert with_spread([math.inf]) == "diverged"
