"""Which optimizer is attached, and in which mode: containers are opened, wrappers that step another one are refused."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import steadynorm
from steadynorm.arguments import unwrap_optimizers


def model_and_sgd() -> tuple[torch.nn.Linear, torch.optim.SGD]:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    return model, torch.optim.SGD(model.parameters(), lr=1e-4)


def backward(model: torch.nn.Module) -> None:
    model.zero_grad()
    (model(torch.ones(2, 4)).sum() * 100).backward()


class Container(torch.optim.Optimizer):
    """As torchtitan's: an optimizer by type, with groups of its own that have no rate."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self.inside = optimizers
        super().__init__([p for each in optimizers for group in each.param_groups for p in group["params"]], {})

    def __iter__(self) -> Iterator[torch.optim.Optimizer]:
        return iter(self.inside)

    def step(self, closure: Any = None) -> Any:
        for optimizer in self.inside:
            optimizer.step()


def test_a_container_stands_for_its_optimizers() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
    inside: list[torch.optim.Optimizer] = [torch.optim.SGD(layer.parameters(), lr=1e-4) for layer in model]
    container = Container(inside)
    assert unwrap_optimizers(container) == unwrap_optimizers([container]) == inside
    agent = steadynorm.attach(model, container)
    for number in range(1, 4):
        backward(model)
        if number == 2:
            agent.before_clip(container)
        container.step()
        assert agent.step == number
    assert {row["updates"] for row in agent.statistics().values()} == {3}
    agent.close()


class TwoPhase(torch.optim.Optimizer):
    """As SAM."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"rho": 0.05})
        self.base_optimizer = torch.optim.SGD(self.param_groups, lr=1e-4)

    def first_step(self) -> None:
        """Would move the weights, and back again."""

    def second_step(self) -> None:
        self.base_optimizer.step()


class Hooked(torch.optim.Optimizer):
    """As a Lookahead that gives itself what torch would have: nothing ever calls these hooks."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self._base_optimizer, self.param_groups, self.state = inner, inner.param_groups, inner.state
        self._optimizer_step_pre_hooks = OrderedDict()
        self._optimizer_step_post_hooks = OrderedDict()


class Unmade(torch.optim.Optimizer):
    """As a Lookahead without `super().__init__()`, or opacus's."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.original_optimizer, self.param_groups, self.state = inner, inner.param_groups, inner.state


class Plain:
    """As schedule-free's wrapper: no optimizer by type."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.base = inner


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda inner: TwoPhase(inner.param_groups[0]["params"]), "optimizer.base_optimizer"),
        (Hooked, r"optimizer._base_optimizer"),
        (Unmade, "optimizer.original_optimizer"),
        (Plain, "optimizer.base"),
    ],
)
def test_a_wrapper_that_steps_another_optimizer_is_refused_with_the_one_to_pass(wrap: Any, said: str) -> None:
    model, inner = model_and_sgd()
    with pytest.raises(TypeError, match=rf"attach\(model, {said}\)"):
        steadynorm.attach(model, wrap(inner))
    steadynorm.attach(model, inner).close()  # nothing was left on it


class Holding(torch.optim.SGD):
    """Holds another optimizer under a name of its own."""

    def __init__(self, parameters: Any, inner: torch.optim.Optimizer) -> None:
        super().__init__(parameters, lr=0.1)
        self.for_the_rest = inner


def test_one_that_holds_another_is_refused_or_told_by_whose_tensors_they_are(caplog: pytest.LogCaptureFixture) -> None:
    model = torch.nn.Linear(3, 2)
    wrapper = Holding(model.parameters(), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(TypeError, match=r"attach\(model, optimizer\.for_the_rest\)"):
        steadynorm.attach(model, wrapper)
    rest = torch.optim.AdamW([model.bias])
    pair = Holding([model.weight], rest)
    steadynorm.attach(model, pair).close(state="failed")
    assert "Holding holds a AdamW with 1 other tensors" in caplog.text
    caplog.clear()
    steadynorm.attach(model, [pair, rest]).close(state="failed")
    assert "other tensors" not in caplog.text


def test_one_that_never_called_its_init_is_refused() -> None:
    class Forgetful(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            self.param_groups = [{"params": list(parameters)}]

    model, _ = model_and_sgd()
    with pytest.raises(TypeError, match=r"must have step hooks: got a Forgetful that never called Optimizer\.__init__"):
        steadynorm.attach(model, Forgetful(model.parameters()))


def test_inference_mode_is_refused() -> None:
    model, optimizer = model_and_sgd()
    with torch.inference_mode(), pytest.raises(ValueError, match=r"outside of torch\.inference_mode"):
        steadynorm.attach(model, optimizer)


class OwnLBFGS(torch.optim.LBFGS):
    """Of another name and module."""


class Searching(torch.optim.SGD):
    """Another that searches along a line, told by its groups."""

    def __init__(self, parameters: Any) -> None:
        super().__init__([{"params": list(parameters), "line_search_fn": "armijo"}], lr=0.1)


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, OwnLBFGS, Searching])
def test_what_compares_gradients_of_several_steps_is_observed_unless_told_otherwise(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, _ = model_and_sgd()
    agent = steadynorm.attach(model, kind(model.parameters()), preset="robust")
    assert agent.settings.mode is steadynorm.Mode.OBSERVE
    told = [record for record in caplog.records if "keeps gradients between steps" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.WARNING]
    agent.close()
    caplog.clear()
    for mode in steadynorm.Mode:
        agent = steadynorm.attach(model, kind(model.parameters()), mode=mode)
        assert agent.settings.mode is mode
        agent.close()
    assert "keeps gradients" not in caplog.text


def test_lbfgs_converges_as_it_does_alone() -> None:
    def losses(attached: bool) -> list[float]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()
        inputs = torch.randn(64, 4, dtype=torch.double)
        wanted = torch.sin(inputs.sum(1, keepdim=True))
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.8)
        agent = steadynorm.attach(model, optimizer) if attached else None

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss: torch.Tensor = (model(inputs) - wanted).square().mean()
            loss.backward()
            return loss.detach()

        found = [float(optimizer.step(closure)) for _ in range(6)]
        if agent is not None:
            agent.close()
        return found

    alone = losses(attached=False)
    assert losses(attached=True) == alone
    assert alone[-1] < 0.01 * alone[0]


class Twice(torch.optim.SGD):
    """Evaluates its closure twice."""

    def step(self, closure: Any = None) -> Any:
        closure()
        return super().step(closure)


@pytest.mark.parametrize("mode", [None, "stabilize", "observe"])
def test_several_evaluations_of_a_closure_are_told_once(mode: str | None, caplog: pytest.LogCaptureFixture) -> None:
    model, _ = model_and_sgd()
    optimizer = Twice(model.parameters(), lr=1e-4)
    agent = steadynorm.attach(model, optimizer, mode=mode)

    def closure() -> float:
        backward(model)
        return 0.0

    for _ in range(3):
        optimizer.step(closure)
    told = [record for record in caplog.records if "evaluates its closure 2 times" in record.getMessage()]
    assert len(told) == (mode is None)
    assert agent.step == 3
    agent.close()


def test_before_clip_with_several_optimizers_needs_the_one_that_steps_next() -> None:
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"G": torch.nn.Linear(4, 4), "D": torch.nn.Linear(4, 1)})
    generator, critic = (torch.optim.SGD(part.parameters(), lr=1e-4) for part in model.values())
    agent = steadynorm.attach(model, [generator, critic])
    with pytest.raises(TypeError, match=r"since this agent has 2: got none.*agent\.before_clip\(optimizer\)"):
        agent.before_clip()
    for number in range(1, 5):
        for optimizer, losses in ((generator, 1), (critic, 2)):
            optimizer.zero_grad()
            (model["D"](model["G"](torch.ones(2, 4))).sum() * 100 * losses).backward()
            agent.before_clip(optimizer)
            seen = [float(p.grad.norm()) for p in optimizer.param_groups[0]["params"]]
            optimizer.step()
            assert seen == pytest.approx([1.0, 1.0], rel=0.02)
        assert agent.step == number
    assert {row["updates"] for row in agent.statistics().values()} == {4}
    with pytest.raises(ValueError, match="got another SGD"):
        agent.before_clip(model_and_sgd()[1])
    agent.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, within torch.compile
def test_a_step_compiled_as_one_graph_says_what_to_do() -> None:
    model, optimizer = model_and_sgd()
    agent = steadynorm.attach(model, optimizer)
    backward(model)
    step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="compile the step without fullgraph=True"):
        step()
    step = torch.compile(optimizer.step, backend="eager")
    for number in range(1, 5):
        backward(model)
        step()
        assert agent.step == number
        assert model.weight.grad is not None
        assert float(model.weight.grad.norm()) == pytest.approx(1.0, rel=1e-4)
    assert agent.counters.errors == 0
    agent.close()


class Adam:
    """Of another library, as Keras, fastai and torchopt have one."""

    def step(self) -> None: ...


class OptimWrapper(Adam):
    """Another library's optimizer around one of torch, under a name of its own."""

    def __init__(self, inside: torch.optim.Optimizer) -> None:
        self.opt = inside


def test_what_is_no_optimizer_of_torch_is_named_with_what_to_pass_in_its_place() -> None:
    model = torch.nn.Linear(2, 1)
    with pytest.raises(TypeError, match=r"got .*test_arguments\.Adam\. .* does not call the hooks of torch\.optim"):
        steadynorm.attach(model, Adam())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"OptimWrapper\. .*attach\(model, optimizer\.opt\)"):
        steadynorm.attach(model, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got str\. Pass the optimizer itself, not a wrapper .* strategy\.$"):
        steadynorm.attach(model, "adam")  # type: ignore[arg-type]
