"""A learning rate that operators hold down stays down whatever fails, and is put back when the agent goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import steadynorm
from steadynorm.agent import Agent

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training


def held(training: Training, stub: StubServer) -> tuple[Agent, list[float]]:
    """An agent whose run is held at a tenth of its rate; and the rate of every step, as the optimizer sees it."""
    seen: list[float] = []
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.optimizer.register_step_pre_hook(lambda o, *_: seen.append(float(o.param_groups[0]["lr"])))
    training.step()
    stub.wait_for(lambda: stub.runs)
    stub.change(lr_scale=0.1)
    while agent.applied_revision == 0:
        training.step()
    return agent, seen


def test_an_internal_error_does_not_let_a_held_rate_go(
    training: Training, stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, seen = held(training, stub)

    def broken(*_: object) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(agent.stabilizers[0], "apply", broken)
    for _ in range(3):
        training.step()
    assert seen[-3:] == pytest.approx([0.001] * 3)
    assert training.optimizer.param_groups[0]["lr"] == 0.01
    agent.close()


def test_closing_after_a_step_that_raised_puts_the_rate_back(training: Training, stub: StubServer) -> None:
    agent, _ = held(training, stub)

    def out_of_memory() -> float:
        raise torch.OutOfMemoryError("no memory is left")

    with pytest.raises(torch.OutOfMemoryError), agent:
        training.optimizer.step(out_of_memory)
    assert training.optimizer.param_groups[0]["lr"] == 0.01


def test_a_mode_that_an_operator_sets_ends_the_observing_after_attach(training: Training, stub: StubServer) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url, mode="observe", observe_steps=10_000)
    training.step()
    stub.wait_for(lambda: stub.runs)
    stub.change(mode="stabilize")
    while agent.applied_revision == 0:
        training.step()
    assert agent.stabilizers[0].settings.mode == "stabilize"  # at the step that is reported, and not 10,000 later
    agent.close()
    (report,) = stub.run.reports
    assert report.step == agent.step
