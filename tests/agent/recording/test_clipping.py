"""Clipping: measured before it when the loop says so, hinted at when it hides the norms."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import torch

import steadynorm
from steadynorm.recording.norm_checks import CLIP_STEPS

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training


def train(training: Training, agent: steadynorm.Agent | None, steps: int, *, clip: float) -> None:
    """Training's step, with a clip where loops have it."""
    for _ in range(steps):
        training.taken += 1
        generator = torch.Generator().manual_seed(training.taken)
        inputs = torch.randn(16, 6, generator=generator)
        labels = torch.randint(3, (16,), generator=generator)
        loss = torch.nn.functional.cross_entropy(training.model(inputs), labels)
        training.optimizer.zero_grad()
        loss.backward()
        if agent is not None:
            agent.before_clip()
        torch.nn.utils.clip_grad_norm_(training.model.parameters(), clip)
        training.optimizer.step()


def test_norms_are_those_before_the_clip_and_each_step_counts_once(
    make_training: type[Training], stub: StubServer
) -> None:
    unclipped, clipped = make_training(), make_training()
    agent = steadynorm.attach(clipped.model, clipped.optimizer, server=stub.url, mode="observe")
    train(clipped, agent, 10, clip=0.01)
    agent.close()
    bare = make_training()
    train(bare, None, 10, clip=0.01)
    assert all(torch.equal(a, b) for a, b in zip(bare.weights(), clipped.weights(), strict=True))
    assert stub.run.steps == list(range(1, 11))
    assert min(stub.run.column("raw_norm")) > 0.1
    assert agent.stabilizers[0].statistics()["0.weight"]["updates"] == 10
    assert unclipped.taken == 0


def test_without_a_clip_measuring_early_changes_nothing(make_training: type[Training]) -> None:
    early, late = make_training(), make_training()
    agents = [steadynorm.attach(each.model, each.optimizer) for each in (early, late)]
    train(early, agents[0], 20, clip=1e9)
    train(late, None, 20, clip=1e9)
    assert all(torch.equal(a, b) for a, b in zip(early.weights(), late.weights(), strict=True))
    assert [agent.step for agent in agents] == [20, 20]
    for agent in agents:
        agent.close()


def test_a_step_that_never_came_is_not_counted_twice(training: Training) -> None:
    agent = steadynorm.attach(training.model, training.optimizer)
    training.step()
    agent.before_clip()
    agent.before_clip()  # the first one's step was skipped
    training.step()
    training.step()
    assert agent.step == 3
    agent.close()


def test_after_a_step_that_raised_the_next_early_one_begins_a_step(training: Training) -> None:
    agent = steadynorm.attach(training.model, training.optimizer)

    def closure() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        training.optimizer.step(closure)
    train(training, agent, 2, clip=1.0)
    assert agent.step == 3
    assert agent.stabilizers[0].statistics()["0.weight"]["updates"] == 2
    agent.close()


def test_a_closed_agent_leaves_gradients_alone(training: Training) -> None:
    agent = steadynorm.attach(training.model, training.optimizer)
    training.step()
    agent.close()
    before = [p.grad.clone() for p in training.model.parameters() if p.grad is not None]
    agent.before_clip()
    after = [p.grad for p in training.model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_run_that_is_clipped_before_the_agent_is_told_so(
    training: Training, stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="steadynorm")
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url, mode="observe")
    train(training, None, CLIP_STEPS + 1, clip=0.01)
    agent.close()
    assert [each.name for each in agent.health().findings] == ["clipped_before"]
    notes = [note.message for batch in stub.run.batches for note in batch.notes if note.kind == "finding"]
    assert ["clipped before steadynorm" in message for message in notes] == [True]
    assert caplog.text.count("the total gradient norm is 0.01 at 200 of the last 200 steps") == 1
