"""A row of docs/works_with.toml is tried: what an optimizer steps with in both modes, and what attach() answers.

python -m tests.docs.works_with LIBRARY    tries the rows of a library
"""

from __future__ import annotations

import importlib
import sys
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import steadynorm
from steadynorm.arguments import unwrap_optimizers
from steadynorm_contract.settings import Mode

STEPS = 6
ROOT = Path(__file__).resolve().parents[2]
Norms = dict[str, float]


@dataclass(frozen=True)
class Row:
    """An optimizer of the table."""

    library: str
    names: list[str]
    make: str
    attach: str = "optimizer"
    loop: str = "plain"
    mode: str = "stabilize"
    width: int = 8  # of the model: what keeps its states in a few bits leaves small tensors alone
    error: str = ""
    note: str = ""


@dataclass
class Trial:
    """What happened: the model afterwards, the agent, and the norms that each step began with."""

    model: torch.nn.Module
    agent: steadynorm.Agent | None
    seen: list[Norms] = field(default_factory=list)


def rows() -> list[Row]:
    """All rows of the table."""
    return [Row(**row) for row in tomllib.loads((ROOT / "docs" / "works_with.toml").read_text("utf-8"))["optimizer"]]


def cases() -> list[tuple[Row, str]]:
    """Each optimizer with its row."""
    return [(row, name) for row in rows() for name in row.names]


def train(row: Row, name: str, mode: str | None, *, attached: bool = True) -> Trial:
    """A tiny model, trained for some steps under the agent or without it. mode: None is attach()'s own choice."""
    torch.manual_seed(0)
    numpy.random.seed(0)  # Kron's own
    model: torch.nn.Module = torch.nn.Sequential(
        torch.nn.Linear(4, row.width), torch.nn.Tanh(), torch.nn.Linear(row.width, 2)
    )
    if row.loop == "sparse":
        model = torch.nn.Embedding(10, 4, sparse=True)
    library = importlib.import_module(row.library)
    known = {
        "torch": torch, row.library.partition(".")[0]: sys.modules[row.library.partition(".")[0]], "model": model,
        "library": library, "params": list(model.parameters()),
        "matrices": [each for each in model.parameters() if each.dim() == 2],
    }  # fmt: skip
    optimizer = eval(row.make.format(name=name), known)
    trial = Trial(model, None)
    if attached:
        stepping = eval(row.attach, {"optimizer": optimizer})
        trial.agent = steadynorm.attach(model, stepping, mode=mode)
        for each in unwrap_optimizers(stepping):  # after the agent's own hook
            each.register_step_pre_hook(lambda *_: trial.seen.append(norms(model)))
    if row.loop != "two_phase" and hasattr(optimizer, "train"):
        optimizer.train()
    generator = torch.Generator().manual_seed(1)
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):  # compiling takes longer than all else
        warnings.simplefilter("ignore")  # of the libraries
        for _ in range(STEPS):
            LOOPS[row.loop](optimizer, _closure(model, optimizer, row.loop, generator))
    return trial


def norms(model: torch.nn.Module) -> Norms:
    """The norm of each gradient that there is, of a sparse one that of its values."""
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {name: float((grad.coalesce().values() if grad.is_sparse else grad).norm()) for name, grad in grads.items()}


def _closure(
    model: torch.nn.Module, optimizer: Any, loop: str, generator: torch.Generator
) -> Callable[[], torch.Tensor]:
    inputs = torch.randn(16, 4, generator=generator)
    if loop == "sparse":
        inputs = torch.randint(10, (16,), generator=generator)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = 100 * (model(inputs) - 1).square().mean()
        loss.backward(create_graph=loop == "create_graph")
        return loss

    return closure


def _plain(optimizer: Any, closure: Callable[[], torch.Tensor]) -> None:
    closure()
    optimizer.step()


def _with_closure(optimizer: Any, closure: Callable[[], torch.Tensor]) -> None:
    optimizer.step(closure)


def _two_phase(optimizer: Any, closure: Callable[[], torch.Tensor]) -> None:
    closure()
    optimizer.first_step(zero_grad=True)
    closure()
    optimizer.second_step()


LOOPS: dict[str, Callable[[Any, Callable[[], torch.Tensor]], None]] = {
    "plain": _plain, "create_graph": _plain, "sparse": _plain, "closure": _with_closure, "two_phase": _two_phase,
}  # fmt: skip


def check(row: Row, name: str) -> None:
    """Raises AssertionError where the row does not hold."""
    if row.error:
        with pytest.raises((TypeError, ValueError), match=row.error):
            train(row, name, None)
        return
    trial = train(row, name, None)
    agent = trial.agent
    assert agent is not None
    assert agent.settings.mode == Mode(row.mode)
    assert agent.step == STEPS
    assert agent.counters.errors == 0
    measured = {name: each for name, each in agent.statistics().items() if each["updates"]}
    assert measured
    assert all(each["raw_norm"] > 0 for each in measured.values())
    if row.mode == "stabilize" and row.loop != "closure":  # a closure makes the gradients later than a hook can look
        for tensor, each in measured.items():
            last = trial.seen[-1][tensor]
            assert abs(last - each["target"]) < 1e-3 * each["target"], "the step began with the target as its norm"
            assert abs(each["raw_norm"] - each["target"]) > 0.1 * each["target"], "which the raw norm is not"
    alone, observed = train(row, name, None, attached=False), train(row, name, "observe")
    pairs = zip(alone.model.parameters(), observed.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs), "observe changes nothing, bit for bit"


if __name__ == "__main__":
    for row, name in cases():
        if row.library.startswith(sys.argv[1]):
            try:
                check(row, name)
                print(f"{row.library} {name}: as the table says")
            except Exception as error:  # the next one is tried all the same
                print(f"{row.library} {name}: {error!r}")
