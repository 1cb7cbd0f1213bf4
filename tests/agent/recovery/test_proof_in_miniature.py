"""benchmarks/recovery_faults.py in a few seconds: faults that a run comes back from, and a clean run."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

STEPS, FAULT = 240, 150
OPTIONS = {"every_steps": 20, "held_steps": 20}


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Any]:
    """benchmarks/recovery_faults.py"""
    folder = str(Path(__file__).parents[3] / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("recovery_faults")
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def clean(benchmark: Any) -> Any:
    """The final loss of a run that met no fault."""
    final, rollbacks = benchmark.train("recovery", None, 0, STEPS, FAULT, **OPTIONS)
    assert rollbacks == 0
    return final


@pytest.mark.parametrize("kind", ["corrupted_weight", "loss_times_10000"])
def test_a_run_comes_back_from_a_fault(benchmark: Any, clean: float, kind: str) -> None:
    final, rollbacks = benchmark.train("recovery", kind, 0, STEPS, FAULT, **OPTIONS)
    assert final < clean + 0.1
    assert rollbacks == (kind != "loss_times_10000")  # what the stabilizer absorbs needs none


def test_without_recovery_it_does_not(benchmark: Any, clean: float) -> None:
    final, _ = benchmark.train("untouched", "nan_batch", 0, STEPS, FAULT)
    assert math.isnan(final)
    final, _ = benchmark.train("untouched", "corrupted_weight", 0, STEPS, FAULT)
    assert final > clean + 1
