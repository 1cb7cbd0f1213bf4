"""What is told of spikes and throttling, in small: benchmarks/detection.py does the same with 40 recorded runs."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from steadynorm_contract.events import EventKind


@pytest.fixture(scope="module")
def detection(pytestconfig: pytest.Config) -> Iterator[ModuleType]:
    """benchmarks/detection.py"""
    folder = str(pytestconfig.rootpath / "benchmarks")
    sys.path.insert(0, folder)
    import detection as module

    yield module
    sys.path.remove(folder)


def young(seed: int, steps: int = 400) -> Tensor:
    """Norms of a run whose gradients shrink fast at first, and scatter; five tensors."""
    draws = torch.randn(steps, 5, generator=torch.Generator().manual_seed(seed))
    fall = torch.tensor([1 + 30 * math.exp(-step / (8 + 4 * seed)) for step in range(steps)])
    return fall.unsqueeze(1) * (0.4 * draws).exp() / 7


@pytest.mark.parametrize("seed", range(4))
def test_a_run_without_a_fault_is_told_nothing_and_a_fault_at_once(detection: ModuleType, seed: int) -> None:
    norms = young(seed)
    clean = detection.tell(norms)
    assert (clean.targets < 0.3).any(), "or this shows nothing"
    assert clean.events == []
    for step in (8, 60, 200):
        for factor in (300.0, 1e4):
            told = detection.tell(detection.planted(norms, {step: factor}))
            assert told.steps(EventKind.SPIKE) == [step]
            late = detection.delay(clean, told, step)
            assert late is not None
            assert late <= detection.LATEST


def test_no_spike_is_overlooked_after_a_large_one_or_told_as_a_recovery(detection: ModuleType) -> None:
    told = detection.tell(detection.planted(young(0), {201: 1e4, 301: 300.0, 351: 1000.0}))
    assert told.steps(EventKind.SPIKE) == [201, 301, 351]
    assert len(told.steps(EventKind.THROTTLED)) == 1
    assert told.steps(EventKind.RECOVERED) == []
    spike = next(event for event in told.events if event.kind is EventKind.SPIKE)
    throttled = next(event for event in told.events if event.kind is EventKind.THROTTLED)
    assert f"the spike at step 201, ×{spike.value:.4g}, holds its update back" in throttled.message
