"""What the question of the default adds to the study: faults in many steps, bad batches, Muon, a bandit, its tables."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "research"))

from study import optimizers  # noqa: E402
from study.default_answers import default  # noqa: E402
from study.faults import Fault  # noqa: E402
from study.questions import FULL, QUESTIONS, usual_rate  # noqa: E402
from study.tasks.bandit import ARMS, Bandit  # noqa: E402
from study.tasks.language import GPT, Language  # noqa: E402
from study.trial import Outcome, Trial  # noqa: E402


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("100/all/kept/3", [3]),
        ("100/all/random/3/2", [3, 4]),
        ("30/all/random/2/end/3", [2, 5, 8]),
        ("10/all/kept/7/end", [7, 8, 9]),
        ("10/batch/labels/1/2/4", [1, 5]),
    ],
)
def test_a_fault_happens_in_the_steps_that_it_names(text: str, steps: list[int]) -> None:
    fault = Fault.parse(text)
    assert fault is not None
    assert [step for step in range(10) if fault.happens(step)] == steps
    assert [step for step in range(10) if fault.spoils(step)] == (steps if "batch" in text else [])
    parameter = nn.Parameter(torch.zeros(3))
    changed = []
    for step in range(10):
        parameter.grad = torch.ones(3)
        fault.plant(step, [parameter], torch.Generator().manual_seed(0))
        if not torch.equal(parameter.grad, torch.ones(3)):
            changed.append(step)
    assert changed == ([] if "batch" in text else steps)


@pytest.mark.parametrize("text", ["10/all/labels/3", "10/batch/kept/3", "10/some/kept/3"])
def test_a_fault_of_no_known_kind_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a fault is FACTOR/.*: got '10/"):
        Fault.parse(text)


def test_a_bad_batch_has_the_same_text_and_labels_that_do_not_belong_to_it() -> None:
    torch.manual_seed(0)
    task = Language("cpu", width=16, layers=1)

    def both() -> tuple[float, float]:
        usual, bad = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
        with torch.no_grad():
            losses = float(task.loss(usual)), float(task.bad_loss(bad, torch.Generator().manual_seed(2)))
        assert torch.equal(usual.get_state(), bad.get_state())
        return losses

    well, badly = both()
    assert abs(well - badly) > 1e-3
    model = task.model
    assert isinstance(model, GPT)
    nn.init.zeros_(model.head.weight)
    nn.init.normal_(model.head.bias)  # it says the same everywhere, so that only how often a character occurs counts
    well, badly = both()
    assert well == pytest.approx(badly, rel=1e-5)


def test_muon_moves_a_matrix_equally_far_in_all_directions_and_the_rest_by_adamw() -> None:
    torch.manual_seed(0)
    matrix, bias = nn.Parameter(torch.zeros(6, 4)), nn.Parameter(torch.zeros(4))
    optimizer = optimizers.make("muon", [matrix, bias], 0.1, 0.0)
    matrix.grad, bias.grad = torch.randn(6, 4) @ torch.diag(torch.tensor([10.0, 1.0, 0.5, 0.2])), torch.ones(4)
    optimizer.step()
    sizes = torch.linalg.svdvals(matrix.detach()) / (0.2 * 0.1 * 6**0.5)
    assert 0.6 < float(sizes.min()) <= float(sizes.max()) < 1.3
    assert bias.tolist() == pytest.approx([-0.1] * 4, rel=1e-3)
    optimizer.zero_grad()
    assert matrix.grad is None
    assert bias.grad is None


def test_regret_is_what_the_best_arms_would_have_paid_more() -> None:
    task = Bandit("cpu", 0)
    for parameter in task.model.parameters():
        nn.init.zeros_(parameter)
    pays = task._held_out @ task._pays
    assert task.score() == pytest.approx(float((pays.max(1).values - pays.mean(1)).mean()), rel=1e-4)
    with torch.no_grad():
        last = list(task.model.parameters())[-1]
        last.copy_(100 * torch.nn.functional.one_hot(torch.tensor(3), ARMS))
    assert task.score() == pytest.approx(float((pays.max(1).values - pays[:, 3]).mean()), rel=1e-4)


def test_a_candidate_is_told_by_its_worst_fault_and_by_what_it_costs_in_calm_training() -> None:
    def row(method: str, fault: str, score: float, **changes: object) -> tuple[Trial, Outcome]:
        trial = Trial("default", "language", "sgd", method, usual_rate("sgd"), 250, 0, fault=fault)
        outcome = Outcome(score, 4.0, score, False, 0, 0, 1.0, 1.0, "4;3")
        return replace(trial, **changes), outcome  # type: ignore[arg-type]  # fields of Trial

    single, lasting, series = "1000/all/kept/125", "10/all/kept/125/end", "100/all/random/125/10"
    rows = [
        row("paper", "", 2.0), row("paper", single, 2.3), row("paper", lasting, 2.01), row("paper", series, 2.2),
        row("robust", "", 2.004), row("robust", single, 2.006), row("robust", lasting, 2.054),
        row("robust", series, 2.0), row("robust", "", 2.5, lr=0.1),
        row("robust", "", 0.3, task="bandit", lr=0.01), row("robust", "", 0.2, task="bandit", lr=0.1),
    ]  # fmt: skip
    text = default(rows).text
    assert "| paper | +0 | +0.3 (sgd, 1000×, kept) | 1 of 3 | +0.17 |" in text
    assert "| robust | +0.004 | +0.05 (sgd, lasting rise, 10×) | 2 of 3 | +0.016 |" in text
    assert "| calm, more than paper |  | +0.004 |" in text
    assert "| next faster rate: the score |  | 2.5 |" in text
    assert "| method | 0.01 | 0.1 | best |" in text
    assert "| robust | 0.3 | 0.2 | 0.2 |" in text


def test_an_unfinished_study_has_all_of_the_seeds_that_it_has() -> None:
    seeds = [trial.seed for trial in QUESTIONS["default"].trials(FULL)]
    assert seeds == sorted(seeds)
