"""What the program has switched on around its steps changes neither gradients nor statistics."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import steadynorm


class Dispatching(TorchDispatchMode):
    """As profilers and debuggers of others."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


class Functional(TorchFunctionMode):
    """As libraries that watch calls."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def switched(switch: Callable[[Any], Any], on: Any, off: Any) -> Iterator[None]:
    switch(on)
    try:
        yield
    finally:
        switch(off)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to halves": lambda: torch.autocast("cpu", torch.float16),
    "inference mode": torch.inference_mode,
    "gradients enabled": torch.enable_grad,
    "anomalies detected": lambda: torch.autograd.set_detect_anomaly(True),
    "tensors saved on the host": lambda: torch.autograd.graph.save_on_cpu(),
    "a default device": lambda: torch.device("meta"),
    "dispatch mode": Dispatching,
    "function mode": Functional,
    "flops counted": lambda: FlopCounterMode(display=False),
    "deterministic algorithms": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "no denormal numbers": lambda: switched(torch.set_flush_denormal, True, False),
    "fast products": lambda: switched(torch.set_float32_matmul_precision, "medium", "highest"),
}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "layers": lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1)),
    "a single tensor": lambda: nn.Linear(5, 1, bias=False),
    "a large tensor": lambda: nn.Linear(200, 100),
}


def train(name: str, mode: str, context: Callable[[], AbstractContextManager[Any]]) -> tuple[list[Tensor], Any]:
    """Gradients as the optimizer found them in the last step, weights, and all statistics."""
    torch.manual_seed(0)
    model = MODELS[name]()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    agent = steadynorm.attach(model, optimizer, server="", mode=mode)
    for step in range(6):
        generator = torch.Generator(device="cpu").manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = (step + 1) * torch.randn(parameter.shape, generator=generator, device="cpu")
        with context():
            optimizer.step()
    assert agent.counters.errors == 0
    statistics = agent.statistics()
    agent.close()
    tensors = [each for p in model.parameters() if p.grad is not None for each in (p.grad.clone(), p.detach().clone())]
    return tensors, statistics


def dots_are_the_same(context: Callable[[], AbstractContextManager[Any]]) -> bool:
    """Not so with fast products where a processor has instructions for them: torch then adds up in another order."""
    values = torch.randn(50, 20_000, generator=torch.Generator(device="cpu").manual_seed(0), device="cpu").unbind()
    with context():
        found = [torch.dot(each, each) for each in values]
    return all(torch.equal(one, torch.dot(each, each)) for one, each in zip(found, values, strict=True))


@functools.cache
def usual(name: str, mode: str) -> tuple[list[Tensor], Any]:
    """Without any context."""
    return train(name, mode, contextlib.nullcontext)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", CONTEXTS)
def test_a_step_is_the_same_in_any_context(name: str) -> None:
    for model in MODELS:
        for mode in ("stabilize", "clip"):
            tensors, statistics = train(model, mode, CONTEXTS[name])
            expected, known = usual(model, mode)
            rounding = 0.0 if dots_are_the_same(CONTEXTS[name]) else 1e-6
            for at, (one, other) in enumerate(zip(tensors, expected, strict=True)):
                # A weight that the steps brought near zero has the rounding of what they added up: of its tensor.
                atol = rounding * float(other.abs().max()) if at % 2 else 0.0
                torch.testing.assert_close(one, other, rtol=rounding, atol=atol, msg=f"{model}, {mode}")
            for parameter, numbers in known.items():
                assert statistics[parameter] == pytest.approx(numbers, rel=rounding, abs=0.0), (model, mode)
            assert statistics.keys() == known.keys()
