"""A subclass whose step() calls super().step(): torch runs the hooks of both, and the agent's act once.

torch wraps `step` of each class when its first instance is made, so the tests make a plain optimizer first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

import steadynorm
from steadynorm_contract.telemetry import Desired

torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=1.0)  # from here on SGD.step runs hooks by itself


class Calling(torch.optim.SGD):
    """As people write it."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class Layerwise(torch.optim.SGD):
    """As LARS: changes the gradients, and reads the rate before and after."""

    def step(self, closure: Any = None) -> Any:
        self.rates = [float(self.param_groups[0]["lr"])]
        loss = super().step(closure)
        self.rates.append(float(self.param_groups[0]["lr"]))
        return loss


class Lookahead(Calling):
    """Three levels: every other step goes back halfway."""

    def step(self, closure: Any = None) -> Any:
        before = [parameter.detach().clone() for parameter in self.param_groups[0]["params"]]
        loss = super().step(closure)
        with torch.no_grad():
            for parameter, slow in zip(self.param_groups[0]["params"], before, strict=True):
                parameter.lerp_(slow, 0.5)
        return loss


class Failing(torch.optim.SGD):
    """Raises where it is told to: before or after the plain step, or in it."""

    where = ""

    def step(self, closure: Any = None) -> Any:
        if self.where == "before":
            raise MemoryError("before")
        loss = super().step(closure)
        if self.where == "after":
            raise MemoryError("after")
        return loss


def model_and_data() -> tuple[torch.nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    inputs = torch.randn(64, 8)
    return torch.nn.Linear(8, 1), inputs, inputs @ torch.randn(8, 1)


def train(kind: type[torch.optim.SGD], steps: int, *, by_closure: bool) -> tuple[torch.Tensor, steadynorm.Agent]:
    model, inputs, wanted = model_and_data()
    optimizer = kind(model.parameters(), lr=0.02)
    agent = steadynorm.attach(model, optimizer)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = (model(inputs) - wanted).square().mean() * 100
        loss.backward()
        return loss

    for _ in range(steps):
        if by_closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), agent


@pytest.mark.parametrize("by_closure", [False, True], ids=["gradients", "closure"])
@pytest.mark.parametrize("kind", [Calling, Layerwise])
def test_it_trains_as_the_plain_optimizer_does(kind: type[torch.optim.SGD], by_closure: bool) -> None:
    plain, expected = train(torch.optim.SGD, 30, by_closure=by_closure)
    weights, agent = train(kind, 30, by_closure=by_closure)
    assert torch.equal(weights, plain)
    assert agent.step == expected.step == 30
    assert agent.statistics() == expected.statistics()
    assert {row["updates"] for row in agent.statistics().values()} == {30}


@pytest.mark.parametrize("by_closure", [False, True], ids=["gradients", "closure"])
def test_every_level_of_three_counts_as_one_step(by_closure: bool) -> None:
    _, agent = train(Lookahead, 10, by_closure=by_closure)
    assert agent.step == 10
    assert {row["updates"] for row in agent.statistics().values()} == {10}
    assert all(row["stabilized_norm"] == pytest.approx(row["target"], rel=1e-4) for row in agent.statistics().values())


def backward(model: torch.nn.Linear) -> list[float]:
    """The raw norms."""
    model.zero_grad()
    (model(torch.ones(2, 8)).sum() * 100).backward()
    return [float(parameter.grad.norm()) for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("captured", [False, True], ids=["step", "step captured before attach"])
def test_a_step_that_raises_does_not_hide_the_next_ones(where: str, captured: bool) -> None:
    model, _, _ = model_and_data()
    optimizer = Failing(model.parameters(), lr=1e-4)
    step: Callable[[], object] = optimizer.step if captured else lambda: optimizer.step()
    agent = steadynorm.attach(model, optimizer)
    backward(model)
    step()
    optimizer.where = where
    backward(model)
    with pytest.raises(MemoryError) as held:  # and its traceback stays alive, as a notebook keeps the last one
        step()
    optimizer.where = ""
    for number in range(3, 6):
        raw = backward(model)
        step()
        assert agent.step == number
        rows = list(agent.statistics().values())
        assert [row["raw_norm"] for row in rows] == pytest.approx(raw, rel=1e-5)
        assert [row["updates"] for row in rows] == [number, number]
    assert held.value.args == (where,)
    agent.close()


def test_a_step_that_is_tried_again_while_its_error_is_handled_is_a_new_one() -> None:
    model, _, _ = model_and_data()
    optimizer = Failing(model.parameters(), lr=1e-4)
    agent = steadynorm.attach(model, optimizer)
    optimizer.where = "after"
    backward(model)
    try:
        optimizer.step()
    except MemoryError:
        optimizer.where = ""
        raw = backward(model)
        optimizer.step()
    assert agent.step == 2
    assert [row["raw_norm"] for row in agent.statistics().values()] == pytest.approx(raw, rel=1e-5)
    agent.close()


def test_lr_scale_holds_during_the_whole_step_and_is_released_once() -> None:
    model, _, _ = model_and_data()
    optimizer = Layerwise(model.parameters(), lr=1.0)
    seen: list[float] = []
    optimizer.register_step_post_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    agent = steadynorm.attach(model, optimizer, mode="observe")
    agent._mailbox.put(Desired(1, msgspec.structs.replace(agent.settings, lr_scale=0.1)))
    for _ in range(3):
        backward(model)
        optimizer.step()
        assert optimizer.rates == pytest.approx([0.1, 0.1])
        assert optimizer.param_groups[0]["lr"] == 1.0
    assert seen == [1.0] * 6  # others' hooks, called twice a step, see the rate as it is
    agent.close()
    assert "step" not in vars(optimizer)
