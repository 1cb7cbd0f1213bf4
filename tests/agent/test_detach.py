"""detach(): an optimizer goes on alone with raw gradients as it would have with the gain still applied."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import optim

import steadynorm
from steadynorm.detach import DetachReport, gains_of

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training

    from steadynorm.agent import Agent

Make = Callable[..., optim.Optimizer]
SMALL = 0.02  # gradients far from the scale of a stabilized one

# eps as small as the gain makes it: what differs is then rounding alone.
FAMILY: dict[str, Make] = {
    "Adam": lambda p, lr: optim.Adam(p, lr=lr, eps=1e-30),
    "Adam, amsgrad": lambda p, lr: optim.Adam(p, lr=lr, eps=1e-30, amsgrad=True),
    "AdamW": lambda p, lr: optim.AdamW(p, lr=lr, eps=1e-30),
    "AdamW, fused": lambda p, lr: optim.AdamW(p, lr=lr, eps=1e-30, fused=True),
    "NAdam": lambda p, lr: optim.NAdam(p, lr=lr, eps=1e-30),
    "RAdam": lambda p, lr: optim.RAdam(p, lr=lr, eps=1e-30),
    "Adamax": lambda p, lr: optim.Adamax(p, lr=lr, eps=1e-30),
    "Adagrad": lambda p, lr: optim.Adagrad(p, lr=lr, eps=1e-30),
    "Adadelta": lambda p, lr: optim.Adadelta(p, lr=100.0, eps=1e-12),
    "RMSprop": lambda p, lr: optim.RMSprop(p, lr=lr, eps=1e-30, momentum=0.9, centered=True),
    "Rprop": lambda p, lr: optim.Rprop(p, lr=lr),
    "Adafactor": lambda p, lr: optim.Adafactor(p, lr=lr),
}


def both_ways(make_training: type[Training], make: Make, steps: int = 30) -> tuple[Training, Training, DetachReport]:
    """A training that was stabilized and then detached, and one that goes on in pass-through with the same gains."""
    alone, passing = make_training(make=make), make_training(make=make)
    agents = [steadynorm.attach(each.model, each.optimizer, mode="stabilize") for each in (alone, passing)]
    for _ in range(steps):
        alone.step(SMALL)
        passing.step(SMALL)
    (stabilizer,) = agents[1].stabilizers
    gains = dict(gains_of([stabilizer]).values())
    assert all(gain > 2 or gain < 0.5 for gain in gains.values()), "the gains must matter"
    agents[1].close()
    carried = stabilizer.state_dict()
    for name, row in carried["parameters"].items():
        row[5] = gains[name]
    follower = steadynorm.GradientStabilizer(passing.model.named_parameters(), mode="observe")
    follower.load_state_dict({**carried, "mode": "observe", "settings": {**carried["settings"], "mode": "observe"}})
    passing.optimizer.register_step_pre_hook(lambda *_: follower.apply())
    return alone, passing, agents[0].detach()


def furthest(first: Training, second: Training) -> float:
    """Largest difference of two weights, beside the largest weight."""
    pairs = list(zip(first.weights(), second.weights(), strict=True))
    return max(float((a - b).abs().max()) for a, b in pairs) / max(float(a.abs().max()) for a, _ in pairs)


@pytest.mark.parametrize("name", FAMILY)
def test_after_detaching_weights_go_the_way_of_a_pass_through_run(make_training: type[Training], name: str) -> None:
    alone, passing, report = both_ways(make_training, FAMILY[name])
    assert furthest(alone, passing) == 0.0
    before = alone.weights()
    for _ in range(50):
        alone.step(SMALL)
        passing.step(SMALL)
    assert furthest(alone, passing) < 2e-5
    moved = max(float((a - b).abs().max()) for a, b in zip(before, alone.weights(), strict=True))
    assert moved > 100 * furthest(alone, passing), "the weights must have moved for that to say something"
    assert report.exact, report.notes
    assert report.left == {}


def test_without_folding_the_same_comparison_fails(make_training: type[Training]) -> None:
    alone, passing, _ = both_ways(make_training, FAMILY["AdamW"])
    state = passing.optimizer.state_dict()
    alone.optimizer.load_state_dict(copy.deepcopy(state))  # the moments as they were before
    for _ in range(50):
        alone.step(SMALL)
        passing.step(SMALL)
    assert furthest(alone, passing) > 1e-3


@pytest.mark.parametrize("at", [0, 1, 5, 7])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_detach_divides_nothing_twice(
    make_training: type[Training], monkeypatch: pytest.MonkeyPatch, at: int, error: type[BaseException]
) -> None:
    """At the at-th write, before it or right after it, and called again."""
    for late in (False, True):
        calm, hit = make_training(make=FAMILY["AdamW"]), make_training(make=FAMILY["AdamW"])
        agents = [steadynorm.attach(each.model, each.optimizer, mode="stabilize") for each in (calm, hit)]
        for _ in range(30):
            calm.step(SMALL)
            hit.step(SMALL)
        agents[0].detach()
        with monkeypatch.context() as patch:
            interrupt_write(patch, at, error, late=late)
            with pytest.raises(error):
                agents[1].detach()
        assert agents[1].detach().exact
        assert agents[1].closed
        moments = [list(each.optimizer.state.values()) for each in (calm, hit)]
        for ours, theirs in zip(*moments, strict=True):
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def interrupt_write(patch: pytest.MonkeyPatch, at: int, error: type[BaseException], *, late: bool) -> None:
    """The at-th tensor that is written in place raises once, before the write or after it."""
    left = [at]
    for name in ("copy_", "div_"):
        write = getattr(torch.Tensor, name)

        def broken(tensor: torch.Tensor, *args: Any, write: Any = write) -> torch.Tensor:
            left[0] -= 1
            if left[0] == -1 and not late:
                raise error
            written: torch.Tensor = write(tensor, *args)
            if left[0] == -1:
                raise error
            return written

        patch.setattr(torch.Tensor, name, broken)


def test_a_detached_optimizer_resumes_from_its_own_state(make_training: type[Training]) -> None:
    alone, passing, _ = both_ways(make_training, FAMILY["AdamW"])
    resumed = make_training(make=FAMILY["AdamW"])
    resumed.model.load_state_dict(alone.model.state_dict())
    resumed.optimizer.load_state_dict(copy.deepcopy(alone.optimizer.state_dict()))
    resumed.taken = alone.taken
    for _ in range(50):
        resumed.step(SMALL)
        passing.step(SMALL)
    assert furthest(resumed, passing) < 2e-5


def test_detaching_in_pass_through_folds_the_gain_that_the_switch_left(make_training: type[Training]) -> None:
    trainings = [make_training(make=FAMILY["AdamW"]) for _ in range(2)]
    agents = [steadynorm.attach(each.model, each.optimizer) for each in trainings]
    for step in range(60):
        if step == 20:
            for agent in agents:
                _switch(agent, "observe")
        if step == 30:
            report = agents[0].detach()
            assert report.exact
        for each in trainings:
            each.step(SMALL)
    assert furthest(*trainings) < 2e-5


def test_a_run_that_was_only_observed_is_left_bit_for_bit(make_training: type[Training]) -> None:
    bare, watched = make_training(make=optim.SGD), make_training(make=optim.SGD)
    agent = steadynorm.attach(watched.model, watched.optimizer, mode="observe")
    for step in range(20):
        if step == 10:
            assert agent.detach().exact
        bare.step()
        watched.step()
    assert furthest(bare, watched) == 0.0


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_keeps_its_state_and_the_report_says_what_to_do(make_training: type[Training], momentum: float) -> None:
    training = make_training(make=lambda p, lr: optim.SGD(p, lr=lr, momentum=momentum))
    agent = steadynorm.attach(training.model, training.optimizer)
    for _ in range(10):
        training.step()
    state = copy.deepcopy(training.optimizer.state_dict())
    report = agent.detach()
    assert not report.exact
    assert set(report.left) == {name for name, _ in training.model.named_parameters()}
    assert "a group of its own with its rate times its gain" in report.notes[0]
    after = training.optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    for index, entries in state["state"].items():
        assert torch.equal(entries["momentum_buffer"], after["state"][index]["momentum_buffer"])


def test_what_the_report_tells_users_of_sgd_is_exact(make_training: type[Training]) -> None:
    alone, passing, report = both_ways(make_training, lambda p, lr: optim.SGD(p, lr=lr, momentum=0.9))
    groups = []
    for name, parameter in alone.model.named_parameters():
        groups.append({"params": [parameter], "lr": 0.01 * report.left[name]})
        alone.optimizer.state[parameter]["momentum_buffer"].div_(report.left[name])
    follower = optim.SGD(groups, lr=0.01, momentum=0.9)
    follower.state = alone.optimizer.state
    alone.optimizer = follower
    for _ in range(50):
        alone.step(SMALL)
        passing.step(SMALL)
    assert furthest(alone, passing) < 2e-5


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda p, lr: optim.Adam(p, lr=lr, weight_decay=0.1, eps=1e-30), "weight_decay is added to the gradient"),
        (lambda p, lr: optim.AdamW(p, lr=lr, eps=1.0), "eps is more than 1%"),
    ],
)
def test_what_is_not_quite_exact_is_said(
    training: Training, make_training: type[Training], make: Make, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    training = make_training(make=make)
    agent = steadynorm.attach(training.model, training.optimizer)
    for _ in range(10):
        training.step()
    report = agent.detach()
    assert not report.exact
    assert report.left == {}
    assert word in report.notes[0]
    assert word in caplog.text


def test_radams_first_steps_are_said_to_change(make_training: type[Training]) -> None:
    training = make_training(make=FAMILY["RAdam"])
    agent = steadynorm.attach(training.model, training.optimizer)
    for _ in range(3):
        training.step()
    assert "RAdam's first steps" in agent.detach().notes[0]


class Strange(optim.AdamW):
    """Whatever its step does, we do not know it."""


def test_an_optimizer_that_is_not_known_is_not_touched(make_training: type[Training]) -> None:
    training = make_training(make=Strange)
    agent = steadynorm.attach(training.model, training.optimizer)
    for _ in range(5):
        training.step()
    state = copy.deepcopy(training.optimizer.state_dict()["state"])
    report = agent.detach()
    assert len(report.left) == 4
    assert "how Strange depends on the gradient's scale is not known" in report.notes[0]
    for index, entries in state.items():
        assert torch.equal(entries["exp_avg"], training.optimizer.state_dict()["state"][index]["exp_avg"])


def test_every_optimizer_of_torch_is_either_folded_or_known_to_need_advice() -> None:
    from steadynorm.detach import _BY_TYPE

    everything: set[Any] = {
        kind
        for kind in vars(optim).values()
        if isinstance(kind, type) and issubclass(kind, optim.Optimizer) and kind is not optim.Optimizer
    }
    assert len(everything) >= 12
    assert {kind.__name__ for kind in everything - set(_BY_TYPE)} == {"SGD", "ASGD", "LBFGS"}


def test_the_server_is_told_that_the_agent_left(training: Training, stub: StubServer) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    for _ in range(5):
        training.step()
    report = agent.detach()
    assert agent.detach() is report
    assert stub.run.finish is not None
    assert (stub.run.finish.state, stub.run.finish.reason) == ("finished", "detached")
    assert stub.run.steps == [1, 2, 3, 4, 5]
    training.step()
    assert agent.step == 5
    steadynorm.attach(training.model, training.optimizer).close()  # free for another one


def test_detaching_a_closed_agent_is_refused(training: Training) -> None:
    agent = steadynorm.attach(training.model, training.optimizer)
    agent.close()
    with pytest.raises(RuntimeError, match="instead of close"):
        agent.detach()


def test_the_rates_are_the_optimizers_own_again(training: Training, stub: StubServer, until: Any) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    agent.flush(20)
    revision = stub.change(lr_scale=0.5)
    until(lambda: agent._mailbox.seen_revision == revision)
    training.step()
    agent.detach()
    assert training.optimizer.param_groups[0]["lr"] == 0.01


def _switch(agent: Agent, mode: str) -> None:
    for stabilizer in agent.stabilizers:
        stabilizer.configure(mode=mode)
