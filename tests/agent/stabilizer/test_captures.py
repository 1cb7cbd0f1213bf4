"""Steps inside of captured CUDA graphs outlive their stabilizer: a replay needs their memory."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest
import torch
from tests.support.fake_cuda import DEVICE

from steadynorm.stabilizer import captures
from steadynorm.stabilizer.captures import Captures
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.stabilizer.statistics import Statistics


@pytest.mark.parametrize(("is_captured", "on_gpu"), [(True, True), (False, True), (True, False)])
def test_what_a_graph_points_into_is_kept_for_good_and_the_end_says_so(
    is_captured: bool, on_gpu: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    capturing = [is_captured]
    monkeypatch.setattr(captures, "is_current_stream_capturing", lambda: capturing[0])
    monkeypatch.setattr(captures, "_pointed_into", [])
    parameter = torch.nn.Parameter(torch.zeros(3))
    stabilizer = GradientStabilizer([("p", parameter)])
    stabilizer._single = None  # which takes steps on the CPU only
    if on_gpu:
        stabilizer.captures = Captures(DEVICE)
    parameter.grad = torch.ones(3)
    stabilizer.apply()
    capturing[0] = False
    stabilizer.apply()
    memory: list[weakref.ref[Statistics | torch.Tensor]] = [
        weakref.ref(stabilizer._statistics),
        weakref.ref(stabilizer.rows),
    ]
    with caplog.at_level(logging.WARNING, "steadynorm"):
        stabilizer.let_go()
        assert not caplog.messages  # the garbage collector may have called it, while it held the logging's lock
        stabilizer.captures.warn()
        stabilizer.captures.warn()
    kept = is_captured and on_gpu
    assert len([message for message in caplog.messages if "replays go on" in message]) == kept
    owner = weakref.ref(parameter)
    del stabilizer, parameter
    gc.collect()
    assert [reference() is not None for reference in memory] == [kept] * 2
    assert owner() is None, "the model is not to be kept"
