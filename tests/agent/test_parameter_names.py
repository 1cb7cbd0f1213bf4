"""A parameter has the name that the bare model's state_dict() has, whatever wraps the model or parts of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper  # where torch has it
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim.swa_utils import AveragedModel

import steadynorm
from steadynorm.parameter_names import parameter_names


class Block(nn.Module):
    """Has a child with the name that wrappers use, which is no wrapper."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.norm(self.module(inputs))
        return result


class GradSampleModule(nn.Module):
    """As Opacus's, by its name and its attribute."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = module

    def forward(self, inputs: torch.Tensor) -> Any:
        return self._module(inputs)


def bare() -> nn.Sequential:
    model = nn.Sequential(Block(), Block(), nn.Linear(3, 2))
    model.append(nn.Linear(2, 2))
    model[3].weight = nn.Parameter(torch.zeros(2, 2))
    return model


def fabric(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its own imports deprecate is not ours
        from lightning.fabric import Fabric
    return Fabric(accelerator="cpu", devices=1).setup_module(model)


def compiled(model: nn.Module) -> nn.Module:
    made = torch.compile(model, backend="eager")
    assert isinstance(made, nn.Module)
    return made


def within(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def wrap_first(model: nn.Module) -> nn.Module:
        model[0] = wrap(model[0])  # type: ignore[index, operator]  # a Sequential
        return model

    return wrap_first


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "nothing": lambda model: model,
    "compile": compiled,
    "compile, a part": within(compiled),
    "checkpoint_wrapper": checkpoint_wrapper,
    "checkpoint_wrapper, a part": within(checkpoint_wrapper),
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "AveragedModel": AveragedModel,
    "Fabric": fabric,
    "FullyShardedDataParallel": lambda model: FullyShardedDataParallel(
        model, use_orig_params=True, device_id=torch.device("cpu")
    ),
    "Opacus": GradSampleModule,
    "all at once": lambda model: compiled(
        nn.parallel.DistributedDataParallel(fabric(within(checkpoint_wrapper)(within(compiled)(model))))
    ),
}


@pytest.fixture
def _group(tmp_path: Path) -> Iterator[None]:
    """A process group of one, for the wrappers that need one."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # FSDP warns of being on the CPU
@pytest.mark.usefixtures("_group")
@pytest.mark.parametrize("name", WRAPPERS)
def test_names_are_those_of_the_bare_model(name: str) -> None:
    expected = list(bare().state_dict())
    wrapped = WRAPPERS[name](bare())
    names = parameter_names(wrapped)
    assert [names[id(parameter)] for parameter in wrapped.parameters()] == expected


@pytest.mark.parametrize("name", ["nothing", "compile", "checkpoint_wrapper, a part", "Fabric", "AveragedModel"])
def test_a_checkpoint_continues_its_run_with_and_without_a_wrapper(name: str) -> None:
    def attached(model: nn.Module) -> steadynorm.Agent:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        kept.append(optimizer)
        return steadynorm.attach(model, optimizer, run="one")

    kept: list[torch.optim.Optimizer] = []
    first, second = attached(bare()), attached(WRAPPERS[name](bare()))
    second.load_state_dict(first.state_dict())
    assert second.run_id == first.run_id


def test_a_module_of_the_users_with_a_wrappers_attribute_keeps_its_name() -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 2), "_module": nn.Linear(2, 2)})
    assert list(parameter_names(model).values()) == list(model.state_dict())


def test_names_stay_different_where_a_parameter_lies_beside_a_wrapped_one() -> None:
    model = nn.Module()
    model.part = nn.Module()
    model.part.register_module("_orig_mod", nn.Linear(2, 2))
    model.part.register_parameter("weight", nn.Parameter(torch.zeros(1)))
    names = parameter_names(model)
    assert sorted(names.values()) == ["part._orig_mod.weight", "part.bias", "part.weight"]
