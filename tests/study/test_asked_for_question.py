"""The methods that reviewers ask for, the schedule of the rate, and the tables of their question."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "research"))

from study import methods  # noqa: E402
from study.asked_for_answers import asked_for  # noqa: E402
from study.reviewers_methods import MedianReference, SkipStep, StableAdamW, StableSPAM  # noqa: E402
from study.run import SCHEDULES, run  # noqa: E402
from study.trial import Outcome, Trial, append, read  # noqa: E402

BASE = Trial("asked for", "digits-cnn", "adamw", "nothing", 3e-3, 200, 0)


@pytest.mark.parametrize(("norm", "loss"), [(1000.0, 1.0), (1.0, 50.0)])
def test_a_step_is_skipped_from_the_64th_on_where_loss_or_norm_is_six_deviations_off(norm: float, loss: float) -> None:
    generator = torch.Generator().manual_seed(0)
    method = SkipStep([nn.Parameter(torch.zeros(50))])
    skipped = []
    for step in range(80):
        odd = step == 75
        method.parameters[0].grad = torch.randn(50, generator=generator) * (norm if odd else 1.0)
        method.loss = (loss if odd else 1.0) + 0.1 * float(torch.rand((), generator=generator))
        method.apply()
        skipped += [step] if method.skips else []
    assert skipped == [75]
    early = SkipStep([nn.Parameter(torch.zeros(50))])
    for step in range(63):
        early.parameters[0].grad = torch.ones(50) * (norm if step == 62 else 1.0 + 0.01 * step)
        early.loss = loss if step == 62 else 1.0 + 0.01 * step
        early.apply()
    assert not early.skips, "its history is too short"


def test_stable_adamw_divides_a_tensors_step_by_how_far_its_gradients_are_above_the_second_moment() -> None:
    def moved(factor: float, kind: type[StableAdamW] | None) -> float:
        parameter = nn.Parameter(torch.ones(4))
        optimizer = torch.optim.AdamW([parameter], lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
        method = kind([parameter]) if kind else None
        if method:
            method.optimizer = optimizer
        for step in range(10):
            parameter.grad = torch.full((4,), factor if step == 9 else 1.0)
            before = parameter.detach().clone()
            if method:
                method.apply()
            optimizer.step()
            if method:
                method.after()
        return float((parameter.detach() - before).norm())

    assert moved(1.0, StableAdamW) == pytest.approx(moved(1.0, None))
    second = (0.99 * (1 - 0.99**9) + 0.01 * 100) / (1 - 0.99**10)
    assert moved(10.0, StableAdamW) == pytest.approx(moved(10.0, None) / (100 / second) ** 0.5, rel=1e-4)


def test_stable_spam_limits_elements_sets_norms_and_forgets_the_moments_every_hundredth_step() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.AdamW([parameter], lr=0.0)
    method = StableSPAM([parameter])
    method.optimizer = optimizer
    for step in range(1, 101):
        parameter.grad = torch.tensor([1.0, 1.0, 1.0, 1.0 if step < 50 else 100.0])
        method.apply()
        if step == 50:  # the decayed maximum is (49 + 100) / 50, roughly: the large element becomes about 3
            assert float(parameter.grad[3] / parameter.grad[0]) == pytest.approx(2.98, abs=0.1)
        optimizer.step()
    assert float(optimizer.state[parameter]["step"]) == 1
    assert float(optimizer.state[parameter]["exp_avg_sq"].max()) < 0.01


@pytest.mark.parametrize("fades", [False, True])
def test_the_median_reference_follows_a_lasting_rise_in_17_steps_and_a_spike_not_at_all(fades: bool) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    method = MedianReference([parameter], fades)
    sizes = []
    for step in range(120):
        parameter.grad = torch.tensor([1.0 if step < 60 else 10.0])
        if step == 40:
            parameter.grad *= 1000
        method.apply()
        sizes.append(float(parameter.grad))
    assert sizes[39] == pytest.approx(1.0)
    assert sizes[40] == pytest.approx(1.4 * (2 / 1000) ** 2 if fades else 1.4, rel=1e-3)
    assert sizes[60 + 17 + 12] == pytest.approx(1.0, abs=0.01)


def test_the_rate_warms_up_and_follows_half_a_cosine_to_a_tenth() -> None:
    factors = [SCHEDULES["cosine"](done) for done in (0.05, 0.1, 0.55, 1.0)]
    assert factors == pytest.approx([0.5, 1.0, 0.55, 0.1])
    assert run(replace(BASE, steps=10, schedule="cosine")).last != run(replace(BASE, steps=10)).last


def test_rows_of_before_the_schedule_are_read_and_added_to_and_cannot_lose_a_schedule(tmp_path: Path) -> None:
    file, outcome = tmp_path / "rates.csv", Outcome(1.0, 2.0, 1.0, False, 0, 0, 1.0, 0.1, "2;1")
    append(file, BASE, outcome)
    text = file.read_text("utf-8").replace(",schedule", "").replace("float32,constant", "float32")
    file.write_text(text, "utf-8")
    append(file, replace(BASE, seed=1), outcome)
    assert [trial for trial, _ in read(file)] == [BASE, replace(BASE, seed=1)]
    with pytest.raises(ValueError, match="schedule"):
        append(file, replace(BASE, schedule="cosine"), outcome)


def test_differences_are_paired_seed_by_seed_and_their_number_is_told() -> None:
    def row(method: str, score: float, **changes: object) -> tuple[Trial, Outcome]:
        return replace(BASE, method=method, **changes), Outcome(  # type: ignore[arg-type]  # fields of Trial
            score, 2.3, score, False, 0, 0, 1.0, 1.0, "2;1"
        )

    spike = "1000/all/kept/100"
    rows = [
        row("nothing", 1.0), row("nothing", 2.0, seed=1), row("robust", 0.9), row("robust", 1.9, seed=1),
        row("robust", 0.95, fault=spike), row("nothing", 1.5, fault=spike),
        row("nothing", 1.2, schedule="cosine"), row("robust", 1.1, schedule="cosine"),
    ]  # fmt: skip
    text = asked_for(rows).text
    assert "| robust | -0.1000 ± 0.0000 | -0.1 |" in text
    assert "2 differences" in text
    assert "| nothing | +0.5 |" in text
    assert "| robust | +0.05 |" in text
    assert "| nothing | +0.55 |" in text.split("against robust with the same fault")[1]
    assert set(methods.ASKED_FOR) <= set(methods.METHODS)
