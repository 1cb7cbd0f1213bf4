"""A change that is applied, and of which nothing or harm may come, is reported with a sentence that says so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch

import steadynorm
from steadynorm_contract.telemetry import RevisionOutcome

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training


Until = Callable[[Callable[[], object]], None]
Change = Callable[..., str]


@pytest.fixture(name="change")
def _change(stub: StubServer, until: Until) -> Change:
    def change(agent: steadynorm.Agent, step: Callable[[], object], **changes: Any) -> str:
        """What the report says of a change that the next step applies."""
        reports = len(stub.run.reports)
        revision = stub.change(**changes)
        until(lambda: agent._mailbox.seen_revision >= revision)
        step()
        assert agent.applied_revision == revision
        stub.wait_for(lambda: len(stub.run.reports) > reports)
        assert stub.run.reports[-1].outcome is RevisionOutcome.APPLIED
        return stub.run.reports[-1].reason

    return change


def begin(step: Callable[[], object], stub: StubServer) -> None:
    step()
    stub.wait_for(lambda: stub.runs)


@pytest.mark.parametrize("mode", ["stabilize", "clip"])
def test_a_mode_that_an_optimizer_may_not_bear_is_applied_with_that_remark(
    make_training: type[Training], stub: StubServer, change: Change, mode: str
) -> None:
    training = make_training(make=torch.optim.LBFGS)

    def closure() -> float:
        training.optimizer.zero_grad()
        loss = training.model(torch.ones(4, 6)).square().mean()
        loss.backward()
        return float(loss.detach())

    step = functools.partial(training.optimizer.step, closure)
    with steadynorm.attach(training.model, training.optimizer, server=stub.url) as agent:
        begin(step, stub)
        assert agent.settings.mode == "observe"
        assert change(agent, step, mode=mode) == (
            f"LBFGS compares gradients of several steps, and mode={mode} scales them differently from step to step: "
            "the training may diverge. Set mode=observe if its loss rises."
        )
        assert change(agent, step, gamma2=0.99) == ""
        assert change(agent, step, mode="observe") == ""


def test_other_optimizers_bear_every_mode(training: Training, stub: StubServer, change: Change) -> None:
    with steadynorm.attach(training.model, training.optimizer, server=stub.url, mode="observe") as agent:
        begin(training.step, stub)
        assert [change(agent, training.step, mode=mode) for mode in ("stabilize", "observe", "clip")] == [""] * 3


def test_a_knob_whose_value_the_loop_copied_is_turned_with_that_remark(
    training: Training, stub: StubServer, change: Change
) -> None:
    with steadynorm.attach(training.model, training.optimizer, server=stub.url) as agent:
        copied, used = agent.knob("copied", 0.1, low=0, high=1), agent.knob("used", 0.1, low=0, high=1)
        (weight_decay,) = agent.optimizer_knobs(training.optimizer, "weight_decay")
        _ = copied.value, float(used)
        begin(training.step, stub)
        for _ in range(11):
            training.step()
            assert used.value == 0.1
        said = change(agent, training.step, knobs={"copied": 0.2, "used": 0.2, weight_decay: 0.1})
        assert said.startswith("The loop has not read knob.copied in the last ")
        assert said.endswith(" steps: a change takes effect where it reads the knob's .value next, if at all.")
        assert copied.value == 0.2
        assert change(agent, training.step, knobs={"copied": 0.3, "used": 0.3, weight_decay: 0.1}) == "", "too soon"
