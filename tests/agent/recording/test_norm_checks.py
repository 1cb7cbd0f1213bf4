"""What the norms of a run's steps tell of its loop: each finding once, and none where there is nothing to find."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

import steadynorm
from steadynorm.recording.norm_checks import CLIP_STEPS, ZERO_STEPS, NormChecks

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training

NAN = float("nan")


def found(norms: list[float]) -> list[tuple[int, str]]:
    """Steps, from 1, at which something was found, and its name."""
    checks = NormChecks()
    return [(step, name) for step, norm in enumerate(norms, 1) for name, _ in checks.observe(step, norm)]


@pytest.mark.parametrize(("share", "told"), [(1.0, True), (0.91, True), (0.89, False), (0.0, False)])
def test_norms_at_a_ceiling_are_found_once(share: float, told: bool) -> None:
    at_it = [step % 100 < 100 * share for step in range(5 * CLIP_STEPS)]
    norms = [1.0 + 1e-6 * (at % 3) if is_at else 0.3 + 0.005 * (at % 100) for at, is_at in enumerate(at_it)]
    assert found(norms) == ([(CLIP_STEPS, "clipped_before")] if told else [])


def test_steps_without_a_norm_count_towards_nothing() -> None:
    assert found([NAN, 0.0] * CLIP_STEPS) == []
    assert found([1.0] + [NAN] * ZERO_STEPS + [0.0] * (ZERO_STEPS - 1) + [NAN] * 3) == []


def test_gradients_that_end_are_found_once() -> None:
    norms = [0.0] * 300 + [1.0, 2.0] + [0.0] * (ZERO_STEPS - 1) + [3.0] + [NAN, 0.0] * ZERO_STEPS + [1.0] + [0.0] * 300
    assert found(norms) == [(302 + ZERO_STEPS + 2 * ZERO_STEPS, "gradients_ended")]


def replaced(training: Training) -> None:
    training.model.load_state_dict(copy.deepcopy(training.model.state_dict()), assign=True)


def frozen(training: Training) -> None:
    zero = torch.zeros(())
    for parameter in training.model.parameters():
        parameter.register_hook(lambda gradient: gradient * zero)


@pytest.mark.parametrize("end", [replaced, frozen])
def test_a_loop_whose_gradients_end_is_told(
    training: Training, stub: StubServer, end: Callable[[Training], None]
) -> None:
    with steadynorm.attach(training.model, training.optimizer, server=stub.url) as agent:
        for _ in range(20):
            training.step()
        end(training)
        for _ in range(ZERO_STEPS + 5):
            training.step()
        assert agent.flush()
        (finding,) = agent.health().findings
    assert finding.name == "gradients_ended"
    assert finding.message.startswith(f"all gradients are missing or zero since step 21, for {ZERO_STEPS} steps")
    notes = [note.message for batch in stub.run.batches for note in batch.notes if note.kind == "finding"]
    assert notes == [finding.message]
