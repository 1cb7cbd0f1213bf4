"""Loss scaling: the statistics are of the true gradients, and a step that is skipped leaves them alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import steadynorm
from steadynorm.stabilizer.stabilizer import GradientStabilizer

SCALE = 1024.0  # a power of two: scaling is exact
MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, fused=False),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=False),
}


class Scaled:
    """A small training with or without a GradScaler. poisoned: steps whose gradients are infinite."""

    def __init__(self, make: Callable[..., torch.optim.Optimizer], *, scaled: bool, **settings: Any) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 2))
        self.optimizer = make(self.model.parameters())
        self.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=10_000, enabled=scaled)
        self.agent = steadynorm.attach(self.model, self.optimizer, **settings)

    def backward(self, number: int) -> None:
        inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(number))
        self.scaler.scale(self.model(inputs).square().mean()).backward()

    def step(
        self, number: int, *, poison: bool = False, clip: float | None = None, accumulate: int = 1
    ) -> dict[str, dict[str, float]]:
        self.optimizer.zero_grad()
        for part in range(accumulate):
            self.backward(1000 * part + number)
        weight = next(self.model.parameters())
        assert weight.grad is not None
        if poison:
            weight.grad[0, 0] = math.inf
        if clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.scaler.step(self.optimizer)
        self.scaler.update(SCALE if self.scaler.is_enabled() else None)
        return self.agent.statistics()

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("how", [{}, {"clip": 0.05}, {"accumulate": 3}], ids=["plain", "clipped", "accumulated"])
def test_a_scaled_run_equals_one_without_scaling(kind: str, how: dict[str, Any]) -> None:
    plain, scaled = Scaled(MAKERS[kind], scaled=False), Scaled(MAKERS[kind], scaled=True)
    for number in range(30):
        expected, found = plain.step(number, **how), scaled.step(number, **how)
        for name, row in expected.items():
            assert found[name] == pytest.approx(row, rel=1e-4), (number, name)
    torch.testing.assert_close(scaled.weights(), plain.weights(), rtol=1e-4, atol=1e-6)
    assert expected["0.weight"]["stabilized_norm"] == pytest.approx(expected["0.weight"]["target"], rel=1e-5)
    assert abs(expected["0.weight"]["scale"] - 1) > 0.1  # there was something to stabilize


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("clip", [None, 1.0], ids=["unscaled by the scaler", "unscaled by hand"])
def test_a_step_that_is_skipped_leaves_statistics_and_weights_alone(kind: str, clip: float | None) -> None:
    training = Scaled(MAKERS[kind], scaled=True)
    for number in range(5):
        before = training.step(number, clip=clip)
    weights, state = training.weights(), training.agent.state_dict()["parameters"]
    after = training.step(5, poison=True, clip=clip)
    assert torch.equal(training.weights(), weights)
    assert all(torch.equal(state[name], rows) for name, rows in training.agent.state_dict()["parameters"].items())
    for name, row in after.items():
        kept = ("norm_mean", "norm_rms", "target", "updates", "nonfinite")
        assert [row[key] for key in kept] == [before[name][key] for key in kept]
    assert training.step(6, clip=clip)["0.weight"]["updates"] == 6  # and it goes on


def test_a_skipped_step_of_a_fused_optimizer_is_not_recorded_as_an_incident() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(4)) for _ in range(3)]
    stabilizer = GradientStabilizer([(f"p{i}", p) for i, p in enumerate(parameters)])
    values = torch.tensor([math.inf, math.nan, 3.0, -1.0])
    for found in (0.0, 1.0):
        for parameter in parameters:
            parameter.grad = values.clone() if found else torch.ones(4)
        stabilizer.apply(torch.tensor(SCALE), torch.tensor(found))
    for parameter in parameters:
        assert parameter.grad is not None
        assert torch.equal(parameter.grad.view(torch.int32), values.view(torch.int32))  # not touched, bit for bit
    for row in stabilizer.statistics().values():
        assert math.isnan(row["raw_norm"])
        assert (row["updates"], row["nonfinite"]) == (1.0, 0.0)


def test_a_nonfinite_norm_that_the_scaler_did_not_find_is_counted_and_becomes_zero() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    stabilizer = GradientStabilizer([("p", parameter)])
    parameter.grad = torch.tensor([1e25, 1e25])  # finite, but with no finite square in float32
    stabilizer.apply(torch.tensor(1.0), torch.tensor(0.0))
    assert parameter.grad.tolist() == [0.0, 0.0]
    assert stabilizer.statistics()["p"]["nonfinite"] == 1


def test_half_precision_gradients_are_not_scaled_to_infinity_by_the_loss_scale() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float16))
    stabilizer = GradientStabilizer([("p", parameter)])
    parameter.grad = torch.full((1,), -100.0, dtype=torch.float16)
    stabilizer.apply(torch.tensor(65536.0), torch.tensor(0.0))
    assert parameter.grad.tolist() == [-65504.0]  # norm 1 times the loss scale is out of range
    assert stabilizer.statistics()["p"]["raw_norm"] == pytest.approx(100 / 65536, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (1000,), (300_000,)], ids=str)
def test_tiny_half_precision_gradients_neither_underflow_nor_overflow(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    parameter = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
    stabilizer = GradientStabilizer([("p", parameter)])
    parameter.grad = torch.full(shape, 1e-7).to(dtype)
    norm = float(torch.linalg.vector_norm(parameter.grad.double()))
    stabilizer.apply()
    row = stabilizer.statistics()["p"]
    assert row["raw_norm"] == pytest.approx(norm, rel=1e-4)  # equal values: all roundings add up
    assert parameter.grad.isfinite().all()
    # A square of 1e-7 and a scale of 1e7 are both out of float16's range. eps is a thousandth of a percent here.
    assert float(torch.linalg.vector_norm(parameter.grad.double())) == pytest.approx(1.0, rel=5e-3)


def test_autocast_with_a_half_precision_model_keeps_statistics_in_float32() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(16, 4).bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    agent = steadynorm.attach(model, optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(torch.ones(2, 16)).square().mean()
        loss.backward()
        optimizer.step()
    state = agent.state_dict()["parameters"]
    assert {rows.dtype for rows in state.values()} == {torch.float32}
    for parameter, row in zip(model.parameters(), agent.statistics().values(), strict=True):
        assert parameter.grad is not None
        assert float(parameter.grad.float().norm()) == pytest.approx(row["target"], rel=5e-3)
    agent.close()
