"""The question of early warning: what a run records, when it has blown up, and what separates and catches mean."""

from __future__ import annotations

import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "research"))

from study import run as running  # noqa: E402
from study.trial import Outcome, Trial, append, read  # noqa: E402
from study.warning_answers import SOON, blow_up, early_warning  # noqa: E402

TRIAL = Trial("early warning", "digits-cnn", "sgd", "nothing", 0.1, 200, 0, schedule="rising", recorded=True)


def recorded(seed: int, end: int | None, told: int) -> tuple[Trial, Outcome]:
    """A run of noise, whose update norm is ten times as large `told` steps before its loss rises at `end`."""
    draw = random.Random(seed)
    steps = []
    for step in range(200):
        loss, gradient, update = (draw.uniform(0.9, 1.1) for _ in range(3))
        if end is not None and step >= end:
            loss += 10
        if end is not None and step >= end - told:
            update *= 10
        steps.append(f"{loss:.4g} {gradient:.4g} {update:.4g}")
    return replace(TRIAL, seed=seed), Outcome(1.0, 1.0, 1.0, False, 0, 0, math.inf, 1.0, "1;1", ";".join(steps))


def test_a_row_has_the_loss_the_gradients_norm_and_the_updates_of_each_step(tmp_path: Path) -> None:
    trial = Trial("early warning", "digits-cnn", "sgd", "nothing", 0.1, 2, 0, recorded=True)
    append(tmp_path / "rows.csv", trial, running.run(trial))
    ((found, outcome),) = read(tmp_path / "rows.csv")
    assert found == trial
    loss, gradient, update = outcome.series()
    assert [len(each) for each in (loss, gradient, update)] == [2, 2, 2]
    assert sum(loss) / 2 == pytest.approx(outcome.last, rel=1e-3)
    assert update[0] == pytest.approx(0.1 * gradient[0], rel=1e-3), "SGD's first step"


def test_a_run_has_blown_up_when_five_steps_are_half_a_nat_above_their_least() -> None:
    assert blow_up([1.0] * 20) == math.inf
    assert blow_up([1.0] * 10 + [9.0] + [1.0] * 10) == 10, "one step of eight nats more is 1.6 in the mean"
    assert blow_up([1.0] * 10 + [3.0] + [1.0] * 10) == math.inf
    assert blow_up([1.0] * 10 + [2.0] * 5) == 12
    assert blow_up([1.0] * 10 + [math.nan]) == 10


def test_a_signal_that_rises_before_separates_and_catches_and_noise_does_not() -> None:
    rows = [recorded(seed, 140 if seed < 10 else None, 12) for seed in range(30)]
    table = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]]
        for cells in (line.strip("|").split("|") for line in early_warning(rows).text.splitlines() if line[:1] == "|")
    }
    assert "10 of 30 runs blow up, at steps 140 to 140" in early_warning(rows).text
    warned, noise = table["update norm"], table["gradient norm"]
    assert warned[:3] == ["1.00 ± 0.00 (10)"] * 3
    assert 0.2 < float(warned[3].split()[0]) < 0.8, "20 steps ahead it is noise, too"
    assert warned[4:7] == ["100%"] * 3
    assert int(warned[7].rstrip("%")) <= 20
    assert 0.2 < float(noise[0].split()[0]) < 0.8
    assert int(noise[4].rstrip("%")) <= 30
    assert float(table["update norm, mean of 5"][9]) < 2, "the threshold is what calm steps have"


def test_runs_none_of_which_blows_up_have_a_page_all_the_same() -> None:
    text = early_warning([recorded(seed, None, 0) for seed in range(3)]).text
    assert "0 of 3 runs blow up." in text
    assert text.count("| – | – | – | – | – | – | – | – |") == 8
    assert SOON > 20
