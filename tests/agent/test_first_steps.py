"""When a run begins: not with a step that only makes the optimizer's state; and when it is observed first."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import steadynorm
from steadynorm.moments import has_moments

if TYPE_CHECKING:
    from tests.support.agent import StubServer

Optimizers = dict[str, Any]


def make(kind: Any = torch.optim.AdamW, **options: Any) -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    return model, kind(model.parameters(), **{"lr": 1e-2, **options})


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().mean().backward()
        optimizer.step()


def observed(agent: steadynorm.Agent) -> bool:
    """Whether the last step was only observed."""
    return agent.stabilizers[0].settings.mode is steadynorm.Mode.OBSERVE


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.NAdam, torch.optim.ASGD])
def test_the_step_of_a_checkpoint_library_counts_registers_and_decides_nothing(kind: Any, stub: StubServer) -> None:
    model, optimizer = make(kind)
    agent = steadynorm.attach(model, optimizer, server=stub.url)
    get_optimizer_state_dict(model, optimizer)  # steps by itself, with zeros for gradients and a rate of zero
    assert agent.step == 0
    train(model, optimizer, 3)
    assert agent.step == 3
    assert not observed(agent)  # it is as fresh as it was
    get_optimizer_state_dict(model, optimizer)
    optimizer.zero_grad()
    get_optimizer_state_dict(model, optimizer)  # where there is no state, as with SGD, it steps again
    assert agent.step == 3
    agent.close()
    assert stub.run.steps == [1, 2, 3]
    assert stub.run.registrations[0].step == 0


def test_a_run_is_continued_although_its_optimizer_was_loaded_after_attach(stub: StubServer) -> None:
    model, optimizer = make()
    agent = steadynorm.attach(model, optimizer, server=stub.url, run="long")
    train(model, optimizer, 5)
    saved, state = agent.state_dict(), get_optimizer_state_dict(model, optimizer)
    agent.close()
    model, optimizer = make()
    again = steadynorm.attach(model, optimizer, server=stub.url, run="long")
    set_optimizer_state_dict(model, optimizer, state)
    again.load_state_dict(saved)
    assert (again.run_id, again.step) == (agent.run_id, 5)
    train(model, optimizer)
    assert not observed(again)
    again.close()
    assert stub.run.steps == [1, 2, 3, 4, 5, 6]


def test_an_optimizer_that_is_loaded_after_attach_is_observed_first(caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = make()
    train(model, optimizer, 5)
    state = get_optimizer_state_dict(model, optimizer)
    model, optimizer = make()
    agent = steadynorm.attach(model, optimizer)
    set_optimizer_state_dict(model, optimizer, state)
    assert agent.step == 0
    caplog.clear()
    train(model, optimizer)
    assert observed(agent)
    told = [record for record in caplog.records if "this optimizer has state: observed for 100" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.WARNING]
    assert "mode=stabilize, after 99 steps in observe" in repr(agent)
    train(model, optimizer, 100)
    assert not observed(agent)
    assert "after" not in repr(agent)
    agent.close()


@pytest.mark.parametrize("gradient", [None, 0.0])
def test_steps_without_a_gradient_before_the_first_with_one_do_not_count(gradient: float | None) -> None:
    model, optimizer = make()  # with a rate: DeepSpeed's way
    agent = steadynorm.attach(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = None if gradient is None else torch.full_like(parameter, gradient)
    agent.before_clip()
    optimizer.step()
    assert agent.step == 0
    train(model, optimizer)
    assert agent.step == 1
    for parameter in model.parameters():
        parameter.grad = None
    optimizer.step()
    assert agent.step == 2  # from then on each step is one
    agent.close()


def test_a_first_step_at_rate_zero_with_gradients_counts() -> None:
    model, optimizer = make()
    agent = steadynorm.attach(model, optimizer)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert optimizer.param_groups[0]["lr"] == 0
    train(model, optimizer)
    scheduler.step()
    assert agent.step == 1
    assert {row["updates"] for row in agent.statistics().values()} == {1}
    agent.close()


def test_a_training_whose_gradients_are_elsewhere_counts_in_the_end() -> None:
    model, optimizer = make()
    agent = steadynorm.attach(model, optimizer)
    for _ in range(15):
        optimizer.step()
    assert agent.step == 5  # after ten that may have been initialization
    agent.close()


def test_a_step_of_one_optimizer_that_makes_its_state_is_no_step_of_the_others() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    first, second = (torch.optim.Adam(layer.parameters()) for layer in model)
    agent = steadynorm.attach(model, [first, second])
    first.step()
    for number in range(1, 4):
        model(torch.ones(1, 4)).sum().backward()
        second.step()
        first.step()
        assert agent.step == number
    agent.close()


def looked_at(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]


def with_copies(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["old_p"] = parameter.detach().clone()


class Averaging(torch.optim.Optimizer):
    """Of the form of schedule-free SGD: steps are counted by group, `train()` looks at the state, `z` is a weight."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "k": 0})

    def train(self) -> None:
        looked_at(self)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        if closure is not None:
            with torch.enable_grad():
                closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                z = self.state[parameter].setdefault("z", parameter.detach().clone())
                z.sub_(parameter.grad * group["lr"])
                parameter.lerp_(z, 1 / (group["k"] + 2))
            group["k"] += 1


FRESH: Optimizers = {
    "as it is": (torch.optim.AdamW, {}, lambda optimizer: None),
    "its state was looked at": (torch.optim.AdamW, {}, looked_at),
    "Adagrad, which makes state at once": (torch.optim.Adagrad, {"initial_accumulator_value": 0.1}, lambda o: None),
    "SGD with copies of its weights": (torch.optim.SGD, {"momentum": 0.9}, with_copies),
    "schedule-free, set to train": (Averaging, {}, lambda optimizer: optimizer.train()),
}


@pytest.mark.parametrize("name", FRESH)
def test_a_fresh_optimizer_is_stabilized_at_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    kind, options, prepare = FRESH[name]
    model, optimizer = make(kind, **options)
    prepare(optimizer)
    assert not has_moments(optimizer)
    agent = steadynorm.attach(model, optimizer)
    train(model, optimizer)
    assert not observed(agent)
    assert "has state" not in caplog.text
    agent.close()


RESUMED: Optimizers = {
    "AdamW": (torch.optim.AdamW, {}),
    "Adagrad": (torch.optim.Adagrad, {}),
    "SGD with momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "LBFGS": (torch.optim.LBFGS, {}),
    "Rprop": (torch.optim.Rprop, {}),
    "schedule-free": (Averaging, {}),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_optimizer_is_observed_first(name: str) -> None:
    kind, options = RESUMED[name]
    model, optimizer = make(kind, **options)
    if hasattr(optimizer, "train"):
        optimizer.train()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(torch.ones(2, 4)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]  # a tensor, as torch's examples return
    assert has_moments(optimizer)
    agent = steadynorm.attach(model, optimizer, mode="stabilize")
    optimizer.step(closure)  # type: ignore[arg-type]
    assert observed(agent)
    agent.close()


def test_plain_sgd_has_nothing_to_resume() -> None:
    model, optimizer = make(torch.optim.SGD)
    train(model, optimizer, 3)
    assert not has_moments(optimizer)


def test_observe_steps_that_were_asked_for_are_not_told() -> None:
    model, optimizer = make()
    train(model, optimizer)
    agent = steadynorm.attach(model, optimizer, observe_steps=0)
    train(model, optimizer)
    assert not observed(agent)
    agent.close()
