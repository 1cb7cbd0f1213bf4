"""Parameters that come to an optimizer after attach(), and several optimizers with loss scaling."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch

import steadynorm

if TYPE_CHECKING:
    from tests.support.agent import StubServer


class Growing:
    """A model whose second layer joins the optimizer later; the third is never named by the model."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
        self.stray = torch.nn.Parameter(torch.ones(4))
        self.optimizer = torch.optim.AdamW(self.model[0].parameters(), lr=0.01)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.stray.grad = None
        (self.model(torch.ones(2, 4)) * self.stray).square().sum().backward()
        self.optimizer.step()

    def grow(self) -> None:
        self.optimizer.add_param_group({"params": [*self.model[1].parameters(), self.stray]})


@pytest.mark.parametrize("before_the_first_step", [True, False])
def test_a_group_that_is_added_is_stabilized_from_its_first_step_and_not_recorded(
    before_the_first_step: bool, stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    training = Growing()
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    if not before_the_first_step:
        training.step()
    training.grow()
    for number in range(1, 4):
        training.step()
        rows = agent.statistics()
        for parameter, name in ((training.model[1].weight, "1.weight"), (training.stray, "optimizer0.group1.param2")):
            assert rows[name]["updates"] == number
            assert isinstance(parameter.grad, torch.Tensor)
            assert float(parameter.grad.norm()) == pytest.approx(rows[name]["target"], rel=1e-4)
    state = agent.state_dict()
    agent.close()
    assert [parameter.name for parameter in stub.run.registrations[0].parameters] == ["0.weight", "0.bias"]
    told = [record for record in caplog.records if "were added to an optimizer after attach" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.WARNING]  # once
    assert "optimizer0.group1.param2" in state["parameters"]
    assert agent.counters.errors == 0

    again = steadynorm.attach(training.model, training.optimizer, server=stub.url)  # now all are known from the start
    again.load_state_dict(state)
    assert again.run_id != agent.run_id  # its table is another one
    assert {row["updates"] for row in again.statistics().values()} == {3, 3 if before_the_first_step else 4}
    again.close()


def test_a_group_that_is_added_follows_the_settings_and_is_detached_with_the_others(stub: StubServer) -> None:
    training = Growing()
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url, mode="observe")
    training.step()
    training.grow()
    training.step()
    stub.wait_for(lambda: stub.runs)
    stub.change(mode="stabilize", gamma2=0.9)
    while agent.applied_revision == 0:
        training.step()
    assert {each.settings.gamma2 for each in agent.stabilizers} == {0.9}
    rows = agent.statistics()
    assert 0.7 < rows["1.weight"]["scale"] < 1.5  # no jolt: without a hand-over it would be 0.45
    assert "1.weight" in agent.detach().parameters


def test_weights_that_are_unfrozen_are_taken_in() -> None:
    training = Growing()
    training.grow()
    training.model[1].requires_grad_(False)
    agent = steadynorm.attach(training.model, training.optimizer)
    training.step()
    assert "1.weight" not in agent.statistics()
    training.model[1].requires_grad_(True)
    for _ in range(2):
        training.step()
    assert agent.statistics()["1.weight"]["updates"] == 2
    assert len(agent.stabilizers) == 2
    agent.close()


def test_two_optimizers_and_one_scaler_make_one_step(stub: StubServer) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
    optimizers: list[Any] = [
        torch.optim.SGD(model[0].parameters(), lr=0.01, fused=True),
        torch.optim.Adam(model[1].parameters(), lr=0.01, fused=False),
    ]
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    agent = steadynorm.attach(model, optimizers, server=stub.url)
    for _ in range(4):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = model(torch.ones(2, 4)).square().mean()
        scaler.scale(loss).backward()
        expected = [float(p.grad.norm()) / 256 for p in model.parameters() if p.grad is not None]
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        assert [row["raw_norm"] for row in agent.statistics().values()] == pytest.approx(expected, rel=1e-5)
    agent.close()
    assert stub.run.steps == [1, 2, 3, 4]
