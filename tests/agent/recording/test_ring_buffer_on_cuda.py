"""The ring with CUDA: only the training thread calls the driver, nothing waits, no step is read before it landed."""

from __future__ import annotations

import threading

import pytest
import torch
from tests.support.fake_cuda import DEVICE, FakeCuda

from steadynorm.recording import recorder as recorder_module
from steadynorm.recording.recorder import Recorder, StepRecord
from steadynorm.stabilizer.statistics import RING_COLUMNS
from steadynorm_contract.telemetry import SCALAR_COLUMNS, floats_from_bytes


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


def rows(cuda: FakeCuda, value: float) -> torch.Tensor:
    return cuda.put(torch.full((2, len(RING_COLUMNS)), value))


def read(recorder: Recorder, *, final: bool = False) -> tuple[list[StepRecord], int]:
    """In a thread of its own, as the publisher's."""
    found: list[tuple[list[StepRecord], int]] = []
    thread = threading.Thread(target=lambda: found.append(recorder.collect(final=final)), name="publisher")
    thread.start()
    thread.join()
    return found[0]


def scalar(step: StepRecord, name: str) -> float:
    return floats_from_bytes(step.scalars)[SCALAR_COLUMNS.index(name)]


def test_the_publishers_thread_never_calls_the_driver_and_the_training_thread_never_waits(cuda: FakeCuda) -> None:
    recorder = Recorder([2], [DEVICE])
    for step in range(1, 6):
        recorder.put(0, step, step, rows(cuda, step), cuda.put(torch.tensor(0.5 * step)))
        recorder.put_loss(cuda.put(torch.tensor(10.0 * step)))
    cuda.run()
    records, lost = read(recorder, final=True)
    assert lost == 0
    assert [scalar(each, "target_min") for each in records] == [1, 2, 3, 4, 5]
    assert [scalar(each, "loss") for each in records] == [10, 20, 30, 40, 50]
    assert [scalar(each, "learning_rate") for each in records] == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert cuda.threads() == {"MainThread"}
    assert cuda.waits == []


def test_a_step_is_read_once_all_of_it_has_landed(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "LANDING_S", 0.01)
    recorder = Recorder([2], [DEVICE])
    for step in (1, 2, 3):
        recorder.put(0, step, step, rows(cuda, step), 0.1)
        recorder.put_loss(cuda.put(torch.tensor(10.0 * step)))
    copies = cuda.pending // 3
    seen: list[int] = []
    for done in range(3 * copies + 1):
        records, lost = read(recorder, final=True)
        assert lost == 0
        assert all(scalar(each, "target_min") == each.step for each in records)
        assert all(scalar(each, "loss") == 10 * each.step for each in records)
        seen += [each.step for each in records]
        assert seen == list(range(1, done // copies + 1))
        if cuda.pending:
            cuda.run(1)
    assert recorder.backlog() < 0


def test_a_device_that_is_a_whole_ring_behind_costs_steps_and_mixes_none(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steadynorm.recording.ring_buffer.MIN_STEPS", 8)
    monkeypatch.setattr("steadynorm.recording.ring_buffer.MAX_STEPS", 8)
    recorder = Recorder([2], [DEVICE])
    for step in range(1, 21):
        recorder.put(0, step, step, rows(cuda, step), 0.1)
    seen, gone = [], 0
    while True:
        records, lost = read(recorder)
        seen += [(each.step, scalar(each, "target_min")) for each in records]
        gone += lost
        if not cuda.pending:
            break
        cuda.run(1)
    assert gone == 12
    assert seen == [(step, step) for step in range(13, 20)]


def test_a_captured_step_leaves_the_ring_alone(cuda: FakeCuda) -> None:
    recorder = Recorder([2], [DEVICE])
    recorder.put(0, 1, 1, rows(cuda, 1), 0.1)
    cuda.run()
    cuda.capturing = True
    recorder.put(0, 2, 2, rows(cuda, 2), 0.1)
    recorder.put_loss(cuda.put(torch.tensor(3.0)))
    assert cuda.pending == 0
