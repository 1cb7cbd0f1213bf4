"""Parameters that leave an optimizer: they are let go of, and those that come in their place are stabilized."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch

import steadynorm
from steadynorm.parameters import FROZEN_PER_STEP

if TYPE_CHECKING:
    from tests.support.agent import StubServer


class Cloud:
    """Points and a bias, as Gaussian splatting: now and then the points are exchanged for more of them."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Module()
        self.model.points = torch.nn.Parameter(torch.randn(10, 3))
        self.model.bias = torch.nn.Parameter(torch.zeros(3))
        groups: list[dict[str, Any]] = [{"params": [self.model.points], "name": "a"}, {"params": [self.model.bias]}]
        self.optimizer = torch.optim.Adam(groups, lr=1e-3)

    @property
    def points(self) -> torch.nn.Parameter:
        points = self.model.points
        assert isinstance(points, torch.nn.Parameter)
        return points

    def step(self) -> float:
        """Returns the norm of the gradient that the optimizer saw."""
        self.optimizer.zero_grad()
        bias = self.model.bias
        assert isinstance(bias, torch.nn.Parameter)
        ((self.points @ torch.ones(3)).sum() * 50 + bias.sum()).backward()
        self.optimizer.step()
        assert self.points.grad is not None
        return float(self.points.grad.norm())

    def grow(self) -> weakref.ref[torch.nn.Parameter]:
        old = self.points
        state = self.optimizer.state.pop(old)
        new = torch.nn.Parameter(torch.cat([old.detach(), old.detach()[:5]]))
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.cat([state[name], torch.zeros(5, 3)])
        self.optimizer.param_groups[0]["params"][0] = new
        self.optimizer.state[new] = state
        self.model.points = new
        return weakref.ref(old)


def test_one_that_is_exchanged_is_stabilized_and_the_old_one_let_go_of(
    stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = Cloud()
    agent = steadynorm.attach(cloud.model, cloud.optimizer, server=stub.url)
    for _ in range(3):
        assert cloud.step() == pytest.approx(1.0, rel=1e-4)
    for number in range(1, 6):
        old = cloud.grow()
        assert cloud.step() == pytest.approx(1.0, rel=1e-4)  # and not 50 times the root of its size
        gc.collect()
        assert old() is None
        row = agent.statistics()["points"]
        assert row["updates"] == 1
        assert row["raw_norm"] == pytest.approx(50 * (3 * cloud.points.shape[0]) ** 0.5, rel=1e-4)
        assert len(agent.stabilizers) == 2  # those of the dead are not kept
        assert agent.statistics()["bias"]["updates"] == 3 + number
    assert agent.counters.errors == 0
    agent.close()
    assert stub.run.steps == list(range(1, 9))
    told = [record for record in caplog.records if "left an optimizer after attach" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.WARNING]  # once, however often
    rows = [batch.rows for batch in stub.run.batches if batch.rows]
    assert rows


def test_one_that_is_taken_out_is_measured_no_more() -> None:
    cloud = Cloud()
    agent = steadynorm.attach(cloud.model, cloud.optimizer)
    cloud.step()
    bias = cloud.optimizer.param_groups.pop()["params"][0]
    bias.grad = None
    cloud.step()
    assert float(bias.grad.norm()) == pytest.approx(3**0.5)  # as it was computed
    assert agent.statistics()["bias"]["updates"] == 1
    assert agent.statistics()["points"]["updates"] == 2
    agent.close()


def test_new_groups_in_a_new_list_are_noticed() -> None:
    cloud = Cloud()
    agent = steadynorm.attach(cloud.model, cloud.optimizer)
    cloud.step()
    other = torch.nn.Linear(4, 1)
    cloud.optimizer.param_groups = [dict(cloud.optimizer.param_groups[0], params=list(other.parameters()))]
    for _ in range(3):
        cloud.optimizer.zero_grad()
        (other(torch.ones(1, 4)).sum() * 100).backward()
        cloud.optimizer.step()
    assert other.weight.grad is not None
    assert float(other.weight.grad.norm()) == pytest.approx(1.0, rel=1e-4)
    assert agent.counters.errors == 0
    agent.close()


def test_one_that_moves_to_another_optimizer_is_stabilized_there() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 1), "b": torch.nn.Linear(4, 1)})
    first, second = (torch.optim.SGD(layer.parameters(), lr=1e-4) for layer in model.values())
    agent = steadynorm.attach(model, [first, second])

    def step() -> None:
        model.zero_grad()
        ((model["a"](torch.ones(1, 4)) + model["b"](torch.ones(1, 4))).sum() * 100).backward()
        first.step()
        second.step()

    step()
    moved = first.param_groups[0]["params"].pop()
    second.param_groups[0]["params"].append(moved)
    for _ in range(2):
        step()
        assert float(moved.grad.norm()) == pytest.approx(1.0, rel=1e-4)
    assert agent.statistics()["a.bias"]["updates"] == 2
    agent.close()


def test_an_optimizer_that_is_emptied_and_filled_again_goes_on() -> None:
    cloud = Cloud()
    agent = steadynorm.attach(cloud.model, cloud.optimizer)
    cloud.step()
    groups, cloud.optimizer.param_groups = cloud.optimizer.param_groups, [{"params": [], "lr": 1e-3}]
    ((cloud.points @ torch.ones(3)).sum()).backward()
    for group in ({**cloud.optimizer.param_groups[0]}, *groups):
        cloud.optimizer.param_groups = [{**groups[0], "params": group["params"]}]
        (cloud.points @ torch.ones(3)).sum().backward()
        cloud.optimizer.step()
    assert agent.counters.errors == 0
    agent.close()


def test_loading_the_optimizers_state_exchanges_nothing(caplog: pytest.LogCaptureFixture) -> None:
    cloud = Cloud()
    agent = steadynorm.attach(cloud.model, cloud.optimizer)
    cloud.step()
    cloud.optimizer.load_state_dict(cloud.optimizer.state_dict())
    cloud.step()
    assert len(agent.stabilizers) == 1
    assert agent.statistics()["points"]["updates"] == 2
    assert "after attach" not in caplog.text
    agent.close()


def test_detaching_folds_those_that_came(stub: StubServer) -> None:
    cloud = Cloud()
    agent = steadynorm.attach(cloud.model, cloud.optimizer)
    for _ in range(3):
        cloud.step()
    cloud.grow()
    cloud.step()
    report = agent.detach()
    assert set(report.parameters) == {"points", "bias"}
    assert report.parameters["points"].gain == pytest.approx(1 / (50 * 45**0.5), rel=1e-4)


def test_tensors_without_memory_are_refused() -> None:
    with torch.device("meta"):
        model = torch.nn.Linear(4, 4)
    with pytest.raises(ValueError, match=r"got 2 on the meta device, the first of them weight\. Call model\.to_empty"):
        steadynorm.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_of_many_frozen_ones_each_is_looked_at_in_turn() -> None:
    count = 3 * FROZEN_PER_STEP + 7
    frozen = [torch.nn.Parameter(torch.ones(2), requires_grad=False) for _ in range(count)]
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(2)), *frozen])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    agent = steadynorm.attach(model, optimizer)

    def step() -> None:
        optimizer.zero_grad()
        sum(parameter.sum() for parameter in model if parameter.requires_grad).backward()
        optimizer.step()

    for at in (5, count - 1, 2 * FROZEN_PER_STEP):
        step()
        model[1 + at].requires_grad_(True)
        for _ in range(4):
            step()
        assert f"{1 + at}" in agent.statistics()
    agent.close()


def test_a_parameter_of_two_optimizers_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    body, heads = torch.nn.Linear(4, 4), [torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)]
    model = torch.nn.ModuleDict({"body": body, "one": heads[0], "two": heads[1]})
    optimizers: list[Any] = [torch.optim.SGD([*body.parameters(), *head.parameters()], lr=1e-4) for head in heads]
    steadynorm.attach(model, optimizers).close()
    assert "2 parameters are held by several optimizers, the first of them body.weight" in caplog.text
    caplog.clear()
    agents = [steadynorm.attach(model, optimizer) for optimizer in optimizers]  # as the warning says
    assert "several optimizers" not in caplog.text
    for optimizer, head in zip(optimizers * 2, heads * 2, strict=True):
        optimizer.zero_grad()
        (head(body(torch.ones(2, 4))).sum() * 100).backward()
        optimizer.step()
        assert body.weight.grad is not None
        assert float(body.weight.grad.norm()) == pytest.approx(1.0, rel=0.02)
    for agent in agents:
        agent.close()
