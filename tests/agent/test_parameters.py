"""Which parameters are stabilized, by which optimizer's stabilizer, under which names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import steadynorm

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training


def test_frozen_parameters_take_no_part_and_tied_ones_take_part_once(stub: StubServer) -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3), "c": torch.nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    model["c"].requires_grad_(False)
    stray = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": list(model.parameters())}, {"params": [stray]}], lr=0.1)
    agent = steadynorm.attach(model, optimizer, server=stub.url)
    assert agent.stabilizers[0].names == ["a.weight", "a.bias", "b.bias", "optimizer0.group1.param0"]
    agent.close()


def test_a_shared_parameter_belongs_to_the_first_optimizer(training: Training) -> None:
    everything = list(training.model.parameters())
    first, second = torch.optim.SGD(everything, lr=0.1), torch.optim.SGD(everything[:1], lr=0.1)
    agent = steadynorm.attach(training.model, [second, first])
    assert [stabilizer.names for stabilizer in agent.stabilizers] == [["0.weight"], ["0.bias", "2.weight", "2.bias"]]
    agent.close()
    agent = steadynorm.attach(training.model, [first, second])  # the second owns none, and still makes steps
    training.step()
    first.step()
    second.step()
    assert agent.step == 1
    assert len(agent.stabilizers) == 1
    agent.close()


def test_names_are_the_same_with_and_without_compile(training: Training) -> None:
    compiled = torch.compile(training.model, backend="eager")
    assert isinstance(compiled, torch.nn.Module)
    wrapped = torch.compile(torch.nn.DataParallel(compiled), backend="eager")
    assert isinstance(wrapped, torch.nn.Module)
    for model in (compiled, wrapped):
        agent = steadynorm.attach(model, training.optimizer)
        assert agent.stabilizers[0].names[0] == "0.weight"
        agent.close()
