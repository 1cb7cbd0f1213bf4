"""Every optimizer that torch has: nothing changes while it is only watched, and stabilized gradients are on target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import steadynorm

OPTIMIZERS: dict[str, Any] = {
    name: value
    for name, value in sorted(vars(torch.optim).items())
    if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
}


class Toy:
    """An embedding and a matrix: both 2-D, which Muon needs; the embedding's gradient is sparse where it must be."""

    def __init__(self, name: str, **options: Any) -> None:
        torch.manual_seed(0)
        sparse = name == "SparseAdam"
        layers = [torch.nn.Embedding(6, 4, sparse=sparse)]
        if not sparse:
            layers.append(torch.nn.Linear(4, 3, bias=False))  # type: ignore[arg-type]  # torch's list of modules
        self.model = torch.nn.Sequential(*layers)
        self.optimizer: torch.optim.Optimizer = OPTIMIZERS[name](self.model.parameters(), **options)
        self.taken = 0
        self.evaluations = 0

    def step(self) -> None:
        self.taken += 1
        tokens = torch.randint(6, (9,), generator=torch.Generator().manual_seed(self.taken))

        def closure() -> float:
            self.evaluations += 1
            self.optimizer.zero_grad()
            loss: torch.Tensor = (self.model(tokens) - 1).square().mean()
            loss.backward()
            return float(loss.detach())

        self.optimizer.step(closure)

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])

    def norms(self) -> list[float]:
        return [
            float(parameter.grad.coalesce().values().norm() if parameter.grad.is_sparse else parameter.grad.norm())
            for parameter in self.model.parameters()
            if parameter.grad is not None
        ]


def test_the_list_of_optimizers_is_torchs_own() -> None:
    assert len(OPTIMIZERS) >= 14
    assert {"AdamW", "SGD", "LBFGS", "SparseAdam", "Adafactor"} <= set(OPTIMIZERS)
    assert ("Muon" in OPTIMIZERS) == hasattr(torch.optim, "Muon")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_observing_leaves_the_weights_bit_identical(name: str) -> None:
    plain, watched = Toy(name), Toy(name)
    with steadynorm.attach(watched.model, watched.optimizer, mode="observe") as agent:
        for _ in range(12):
            plain.step()
            watched.step()
        assert {row["updates"] for row in agent.statistics().values()} == {12}
        assert agent.counters.errors == 0
    assert torch.equal(plain.weights(), watched.weights())
    assert not torch.equal(plain.weights(), Toy(name).weights())  # it did train


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_sees_gradients_whose_norm_is_the_target(name: str) -> None:
    toy = Toy(name, **({"max_iter": 1} if name == "LBFGS" else {}))
    seen: list[list[float]] = []
    agent = steadynorm.attach(toy.model, toy.optimizer, mode="stabilize", gamma2=0.9)
    toy.optimizer.register_step_post_hook(lambda *_: seen.append(toy.norms()))
    before = toy.weights()
    for _ in range(12):
        toy.step()
        rows = agent.statistics().values()
        assert seen[-1] == pytest.approx([row["target"] for row in rows], rel=1e-4)
        assert all(row["raw_norm"] > 0 for row in rows)
    assert len(seen) == toy.evaluations == 12
    assert {row["updates"] for row in rows} == {12}
    assert any(abs(row["scale"] - 1) > 0.05 for row in rows)
    assert not torch.equal(toy.weights(), before)
    assert agent.counters.errors == 0
    agent.close()


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_all_evaluations_of_one_step_are_scaled_alike_and_count_once(line_search: str | None) -> None:
    toy = Toy("LBFGS", line_search_fn=line_search, max_iter=6)
    raw: list[list[float]] = []
    agent = steadynorm.attach(toy.model, toy.optimizer, mode="stabilize")

    def keep(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        raw.append([float(parameter.grad.norm())])

    parameter = next(toy.model.parameters())
    parameter.register_post_accumulate_grad_hook(keep)
    for steps in range(1, 4):
        start = len(raw)
        toy.step()
        row = agent.statistics()["0.weight"]
        assert len(raw) - start > 2
        assert row["updates"] == steps
        assert row["raw_norm"] == pytest.approx(raw[start][0], rel=1e-5)  # the first evaluation is the step's
        assert toy.norms()[0] == pytest.approx(raw[-1][0] * row["scale"], rel=1e-5)  # the last has its scale
        assert raw[-1][0] != raw[start][0]
    agent.close()


def test_a_later_evaluation_that_is_not_finite_becomes_zero_and_the_next_step_is_sound() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    stabilizer = steadynorm.GradientStabilizer([("p", parameter)])
    parameter.grad = torch.tensor([3.0, 0.0, 4.0])
    stabilizer.apply()
    before = stabilizer.state_dict()["parameters"]["p"]
    for values, expected in (([0.0, 10.0, 0.0], [0.0, 2.0, 0.0]), ([1.0, torch.nan, 0.0], [0.0, 0.0, 0.0])):
        parameter.grad = torch.tensor(values)
        stabilizer.apply_again()
        assert parameter.grad.tolist() == pytest.approx(expected)
    assert torch.equal(stabilizer.state_dict()["parameters"]["p"], before)


def test_an_accelerated_optimizer_is_attached_like_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate  # type: ignore[import-untyped]  # it has no marker

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)

    def train(attach: Callable[[Any, Any], steadynorm.Agent | None]) -> torch.Tensor:
        toy = Toy("AdamW", lr=0.01)
        model, optimizer = accelerator.prepare(toy.model, toy.optimizer)
        scheduler = accelerator.prepare(torch.optim.lr_scheduler.StepLR(toy.optimizer, 2, 0.5))
        agent = attach(model, optimizer)
        for number in range(8):
            with accelerator.accumulate(model):
                tokens = torch.randint(6, (9,), generator=torch.Generator().manual_seed(number))
                accelerator.backward((model(tokens) - 1).square().mean())
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        if agent is not None:
            assert agent.step == 4  # accumulated gradients make one step
            assert {row["updates"] for row in agent.statistics().values()} == {4}
            agent.close()
        return toy.weights()

    untouched = train(lambda model, optimizer: None)
    assert torch.equal(untouched, train(lambda m, o: steadynorm.attach(m, o, mode="observe")))
    by_wrapper = train(lambda m, o: steadynorm.attach(m, o))
    assert torch.equal(by_wrapper, train(lambda m, o: steadynorm.attach(m, o.optimizer)))
    assert not torch.equal(untouched, by_wrapper)
