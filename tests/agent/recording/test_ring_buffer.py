"""The ring between training and publisher: steps come out once, overwritten ones are counted, none is mixed."""

from __future__ import annotations

import math
import threading

import pytest
import torch

from steadynorm.recording import ring_buffer
from steadynorm.recording.recorder import Recorder, StepRecord
from steadynorm.stabilizer.statistics import RING_COLUMNS
from steadynorm_contract.telemetry import ROW_COLUMNS, SCALAR_COLUMNS, floats_from_bytes

CPU = torch.device("cpu")
ROW = len(ROW_COLUMNS)


def rows(value: float, parameters: int = 2) -> torch.Tensor:
    return torch.full((parameters, len(RING_COLUMNS)), float(value))


def norm(step: StepRecord) -> float:
    """Of a step whose rows hold the same value everywhere: that value, out of the summary."""
    return scalar(step.scalars, "target_min")


def scalar(data: bytes, name: str) -> float:
    return floats_from_bytes(data)[SCALAR_COLUMNS.index(name)]


@pytest.fixture
def recorder() -> Recorder:
    """One stabilizer with two parameters."""
    return Recorder([2], [CPU])


def test_the_newest_step_waits_for_its_loss_and_final_takes_it(recorder: Recorder) -> None:
    for step in (1, 2, 3):
        recorder.put(0, step, step, rows(step), 0.1)
    assert [each.step for each in recorder.collect()[0]] == [1, 2]
    assert recorder.collect() == ([], 0)
    recorder.put_loss(7.0)
    (last,), lost = recorder.collect(final=True)
    assert (last.step, scalar(last.scalars, "loss"), lost) == (3, 7.0, 0)
    assert scalar(last.scalars, "learning_rate") == pytest.approx(0.1)
    assert list(floats_from_bytes(last.rows)) == [3.0] * (2 * ROW)
    assert recorder.collect(final=True) == ([], 0)


def test_a_learning_rate_may_be_a_tensor(recorder: Recorder) -> None:
    recorder.put(0, 1, 1, rows(1), torch.tensor([0.25], dtype=torch.float64))
    (only,), _ = recorder.collect(final=True)
    assert scalar(only.scalars, "learning_rate") == 0.25


def test_steps_that_nobody_collected_in_time_are_counted(recorder: Recorder) -> None:
    total = recorder.capacity + 10
    for step in range(1, total + 1):
        recorder.put(0, step, step, rows(step), 0.1)
    records, lost = recorder.collect(final=True)
    assert lost == 10
    assert [each.step for each in records] == list(range(11, total + 1))
    assert [norm(each) for each in records] == list(range(11, total + 1))


def test_a_step_number_may_go_back_while_rounds_go_on(recorder: Recorder) -> None:
    for round_, step in enumerate([1, 2, 3, 2, 3], start=1):
        recorder.put(0, round_, step, rows(round_), 0.1)
    records, _ = recorder.collect(final=True)
    assert [each.step for each in records] == [1, 2, 3, 2, 3]
    assert [norm(each) for each in records] == [1, 2, 3, 4, 5]


def test_a_writer_that_overtakes_the_reader_never_gets_records_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_buffer, "MIN_STEPS", 8)
    monkeypatch.setattr(ring_buffer, "MAX_STEPS", 8)
    recorder = Recorder([40], [CPU])
    assert recorder.capacity == 8
    written = 20_000
    done = threading.Event()

    def write() -> None:
        mine = torch.empty(40, len(RING_COLUMNS))
        for step in range(1, written + 1):
            mine.fill_(step)
            recorder.put(0, step, step, mine, float(step))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen, lost = [], 0
    while True:
        ending = done.is_set()
        records, gone = recorder.collect(final=ending)
        lost += gone
        for each in records:
            assert norm(each) == scalar(each.scalars, "learning_rate") == float(each.step)
            assert set(floats_from_bytes(each.rows)) == {float(each.step)}
            seen.append(each.step)
        if ending:
            break
    writer.join()
    assert seen == sorted(set(seen))
    assert len(seen) + lost == written


def test_an_optimizer_that_did_not_step_is_left_out() -> None:
    recorder = Recorder([2, 1], [CPU, CPU])
    for step in (1, 2, 3):
        recorder.put(0, step, step, rows(step), 0.1)
        if step != 2:
            recorder.put(1, step, step, rows(10 * step, 1), 0.2)
    recorder.put_loss(torch.tensor(5.0))
    records, lost = recorder.collect(final=True)
    assert lost == 0
    totals = [scalar(each.scalars, "raw_norm") for each in records]
    assert totals == pytest.approx([math.hypot(1, 1, 10), math.hypot(2, 2), math.hypot(3, 3, 30)])
    assert scalar(records[2].scalars, "loss") == 5.0
    kept = [floats_from_bytes(each.rows) for each in records]
    assert list(kept[0]) == [1.0] * (2 * ROW) + [10.0] * ROW
    assert list(kept[1][: 2 * ROW]) == [2.0] * (2 * ROW)
    assert all(math.isnan(value) for value in kept[1][2 * ROW :])


@pytest.mark.parametrize(("parameters", "least"), [(1, 16_384), (300, 2180), (5000, 131), (50_000, 128)])
def test_capacity_follows_the_size_of_a_step(parameters: int, least: int) -> None:
    capacity = ring_buffer.capacity_for(parameters)
    assert capacity >= least
    assert capacity == 128 or capacity * parameters * len(RING_COLUMNS) * 4 <= 20 * 1024 * 1024
