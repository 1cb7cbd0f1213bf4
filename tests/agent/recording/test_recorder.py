"""Several optimizers' sections of one step read as if one stabilizer had seen all the parameters."""

from __future__ import annotations

import math

import pytest
import torch

import steadynorm
from steadynorm.recording.flight_recorder import STEPS_AFTER, STEPS_BEFORE, FlightRecorder
from steadynorm.recording.recorder import StepRecord, combine
from steadynorm.recording.ring_buffer import Mark
from steadynorm_contract.telemetry import SCALAR_COLUMNS, floats_from_bytes


def combined_step(*stabilizers: steadynorm.GradientStabilizer, loss: float | None = None) -> StepRecord:
    """One step of all of them."""
    rows = [stabilizer.rows.unsqueeze(0) for stabilizer in stabilizers]
    (record,), _ = combine(rows, [[Mark(1, 0.0, loss, 0.1)]] * len(rows), [[False]] * len(rows))
    return record


def scalars(record: StepRecord) -> dict[str, float]:
    return dict(zip(SCALAR_COLUMNS, floats_from_bytes(record.scalars), strict=True))


@pytest.mark.parametrize("cut", [1, 3, 5])
@pytest.mark.parametrize("event", ["calm", "spike", "nonfinite"])
def test_two_halves_combine_to_the_whole(cut: int, event: str) -> None:
    torch.manual_seed(cut)
    parameters = [torch.nn.Parameter(torch.randn(4, 5)) for _ in range(7)]
    named = [(f"p{index}", parameter) for index, parameter in enumerate(parameters)]
    whole = steadynorm.GradientStabilizer(named, mode="observe")
    halves = [
        steadynorm.GradientStabilizer(named[:cut], mode="observe"),
        steadynorm.GradientStabilizer(named[cut:], mode="observe"),
    ]
    for step in range(6):
        for index, parameter in enumerate(parameters):
            parameter.grad = torch.randn(4, 5) * (index + 1)
        if step == 5 and event == "spike":
            parameters[4].grad = torch.full((4, 5), 1e4)
            parameters[6].grad = torch.full((4, 5), 1e3)
        if step == 5 and event == "nonfinite":
            parameters[2].grad = torch.full((4, 5), math.nan)
            parameters[5].grad = torch.full((4, 5), math.inf)
        for each in (whole, *halves):
            each.apply()
    expected = combined_step(whole)
    combined = combined_step(*halves)
    assert scalars(combined) == pytest.approx(scalars(expected), rel=1e-5, nan_ok=True)
    assert floats_from_bytes(combined.rows) == pytest.approx(floats_from_bytes(expected.rows), rel=1e-5, nan_ok=True)
    assert combined.alarm is (event != "calm")
    if event == "spike":
        assert scalars(combined)["spike_parameter"] == 4
        assert scalars(combined)["spikes"] == 2
    if event == "nonfinite":
        assert (scalars(combined)["nonfinite_parameter"], scalars(combined)["nonfinite"]) == (2, 2)


def test_unmeasured_sections_stay_unmeasured() -> None:
    stabilizer = steadynorm.GradientStabilizer([("p", torch.nn.Parameter(torch.ones(2)))], mode="off")
    stabilizer.apply()
    found = scalars(combined_step(stabilizer, stabilizer))
    assert math.isnan(found["raw_norm"])
    assert math.isnan(found["target_min"])
    assert (found["spikes"], found["nonfinite_parameter"]) == (0, -1)


@pytest.mark.parametrize(
    ("logged", "sent", "flag"), [(None, math.nan, 0), (math.nan, math.nan, 1), (-math.inf, -math.inf, 1), (2.5, 2.5, 0)]
)
def test_a_loss_that_is_not_finite_is_told_from_one_that_was_not_logged(
    logged: float | None, sent: float, flag: int
) -> None:
    stabilizer = steadynorm.GradientStabilizer([("p", torch.nn.Parameter(torch.ones(2)))], mode="off")
    stabilizer.apply()
    found = scalars(combined_step(stabilizer, loss=logged))
    assert found["loss"] == pytest.approx(sent, nan_ok=True)
    assert found["loss_nonfinite"] == flag


def fly(recorder: FlightRecorder, steps: range, alarms: set[int]) -> list[int]:
    return [kept for step in steps for kept, _ in recorder.admit(step, b"", step in alarms)]


def test_the_flight_recorder_keeps_the_regular_steps_and_those_around_alarms_once() -> None:
    kept = fly(FlightRecorder(50), range(1, 301), {120, 130, 290})
    around = {*range(120 - STEPS_BEFORE, 130 + STEPS_AFTER + 1), *range(290 - STEPS_BEFORE, 301)}
    assert sorted(kept) == sorted({1, 50, 100, 150, 200, 250, 300} | around)
    assert STEPS_BEFORE + 1 + STEPS_AFTER == 64


def test_steps_from_long_before_an_alarm_are_not_dug_out() -> None:
    # Every step is regular until 100, so what is left to give stems from after it.
    recorder = FlightRecorder(1)
    assert fly(recorder, range(1, 101), set()) == list(range(1, 101))
    rare = FlightRecorder(2)
    assert fly(rare, range(1, 101), set()) == [1, *range(2, 101, 2)]
    assert min(kept for kept, _ in rare.admit(101, b"", True)) == 101 - STEPS_BEFORE


def test_around_an_alarm_the_recorder_counts_steps_and_not_the_loops_numbers() -> None:
    recorder, kept = FlightRecorder(50), []
    for step in range(1, 201):  # a loop that counts micro-batches, eight a step
        kept += [number for number, _ in recorder.admit(step, b"", step == 120, number=8 * step)]
    around = range(120 - STEPS_BEFORE, 120 + STEPS_AFTER + 1)
    assert sorted(kept) == [8 * step for step in sorted({1, 50, 100, 150, 200, *around})]
