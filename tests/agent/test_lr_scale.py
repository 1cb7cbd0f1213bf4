"""A learning rate that operators hold down stays down whatever fails, and is put back when the agent goes."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import schedulefree
import torch
from tests.support.agent import rates_used

import steadynorm
from steadynorm.agent import Agent
from steadynorm_contract.telemetry import Desired, RevisionOutcome

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training

Until = Callable[[Callable[[], object]], None]


def held(training: Training, stub: StubServer) -> tuple[Agent, list[float]]:
    """An agent whose run is held at a tenth of its rate; and the rate of every step, as the optimizer sees it."""
    seen = rates_used(training.optimizer)
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    stub.wait_for(lambda: stub.runs)
    stub.change(lr_scale=0.1)
    while agent.applied_revision == 0:
        training.step()
    return agent, seen


def test_an_internal_error_does_not_let_a_held_rate_go(
    training: Training, stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, seen = held(training, stub)

    def broken(*_: object) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(agent.stabilizers[0], "apply", broken)
    for _ in range(3):
        training.step()
    assert seen[-3:] == pytest.approx([0.001] * 3)
    assert training.optimizer.param_groups[0]["lr"] == 0.01
    agent.close()


def test_closing_after_a_step_that_raised_puts_the_rate_back(training: Training, stub: StubServer) -> None:
    agent, _ = held(training, stub)

    def out_of_memory() -> float:
        raise torch.OutOfMemoryError("no memory is left")

    with pytest.raises(torch.OutOfMemoryError), agent:
        training.optimizer.step(out_of_memory)
    assert training.optimizer.param_groups[0]["lr"] == 0.01


def test_a_mode_that_an_operator_sets_ends_the_observing_after_attach(training: Training, stub: StubServer) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url, mode="observe", observe_steps=10_000)
    training.step()
    stub.wait_for(lambda: stub.runs)
    stub.change(mode="stabilize")
    while agent.applied_revision == 0:
        training.step()
    assert agent.stabilizers[0].settings.mode == "stabilize"  # at the step that is reported, and not 10,000 later
    agent.close()
    (report,) = stub.run.reports
    assert report.step == agent.step


class Interrupted(torch.optim.SGD):
    """Raises what it is told to, in its step."""

    error: BaseException | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        if self.error is not None:
            raise self.error
        return super().step(closure)


class Loop:
    """A weight whose gradient is 1, a scheduler that halves the rate, and a run held at a tenth of it."""

    def __init__(self, make: Callable[[Any], torch.optim.Optimizer], *, scheduler_first: bool = False) -> None:
        self.model = torch.nn.Linear(4, 1)
        self.optimizer = make(self.model.parameters())
        if scheduler_first:
            self.schedule()
        self.agent = steadynorm.attach(self.model, self.optimizer, mode="observe")
        if not scheduler_first:
            self.schedule()
        self.agent._mailbox.put(Desired(1, msgspec.structs.replace(self.agent.settings, lr_scale=0.1)))

    def schedule(self) -> None:
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.5)

    @property
    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def backward(self, factor: float = 1.0) -> None:
        self.optimizer.zero_grad()
        (self.model(torch.ones(1, 4)).sum() * factor).backward()

    def step(self) -> float:
        """Returns what the step moved the bias by, which is the rate that it used."""
        self.backward()
        before = float(self.model.bias.detach())
        self.optimizer.step()
        return before - float(self.model.bias.detach())


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0)


@pytest.mark.parametrize("scheduler_first", [False, True])
def test_a_scheduler_beside_it_goes_its_way(scheduler_first: bool) -> None:
    loop = Loop(sgd, scheduler_first=scheduler_first)
    for number in range(4):
        assert loop.step() == pytest.approx(0.1 * 0.5**number, rel=1e-4)
        loop.scheduler.step()
        assert loop.rate == 0.5 ** (number + 1)
    loop.agent.close()
    assert loop.step() == pytest.approx(0.5**4, rel=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop.scheduler.step()  # it still knows that its wrapper was called
    assert loop.rate == 0.5**5


def test_a_step_that_is_skipped_after_before_clip_leaves_the_rate() -> None:
    loop = Loop(sgd)
    for number in range(6):
        loop.backward(float("nan") if number in (2, 3) else 1.0)
        loop.agent.before_clip()
        assert loop.rate == 0.5**number
        norm = torch.nn.utils.clip_grad_norm_(loop.model.parameters(), 1e9)
        before = float(loop.model.bias.detach())
        if torch.isfinite(norm):
            loop.optimizer.step()
            assert before - float(loop.model.bias.detach()) == pytest.approx(0.1 * 0.5**number, rel=1e-4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loop.scheduler.step()
    assert loop.rate == 0.5**6
    loop.agent.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), torch.OutOfMemoryError("no memory is left")])
def test_a_step_that_raises_leaves_the_rate_at_once(error: BaseException) -> None:
    loop = Loop(lambda parameters: Interrupted(parameters, lr=1.0))
    loop.step()
    optimizer = loop.optimizer
    assert isinstance(optimizer, Interrupted)
    optimizer.error = error
    with pytest.raises(type(error)):
        loop.step()
    assert loop.rate == 1.0
    optimizer.error = None
    loop.scheduler.step()
    assert loop.step() == pytest.approx(0.05, rel=1e-4)
    loop.agent.close()


def test_a_step_that_bypasses_the_instance_and_raises_leaves_the_rate_for_the_next_one_and_for_checkpoints() -> None:
    loop = Loop(lambda parameters: Interrupted(parameters, lr=1.0))
    loop.step()
    assert isinstance(loop.optimizer, Interrupted)
    loop.optimizer.error = MemoryError()
    loop.backward()
    with pytest.raises(MemoryError):
        Interrupted.step(loop.optimizer)
    assert loop.optimizer.state_dict()["param_groups"][0]["lr"] == 1.0
    loop.optimizer.error = None
    assert loop.step() == pytest.approx(0.1, rel=1e-4)
    assert loop.rate == 1.0
    loop.agent.close()


def test_hooks_that_were_registered_before_see_the_rate_as_it_is() -> None:
    loop = Loop(stepping_its_scheduler)
    for number in range(4):
        assert loop.step() == pytest.approx(0.1 * 0.5**number, rel=1e-4)
        assert loop.rate == 0.5 ** (number + 1)
    loop.agent.close()


def stepping_its_scheduler(parameters: Any) -> torch.optim.Optimizer:
    optimizer = sgd(parameters)

    def halve(*_: object) -> None:
        optimizer.param_groups[0]["lr"] *= 0.5

    optimizer.register_step_post_hook(halve)
    return optimizer


def test_a_checkpoint_that_is_made_within_a_step_has_the_rate_as_it_is() -> None:
    loop = Loop(sgd)
    saved: list[float] = []

    def closure() -> float:
        saved.append(loop.optimizer.state_dict()["param_groups"][0]["lr"])
        saved.append(loop.rate)
        loop.backward()
        return 0.0

    before = float(loop.model.bias.detach())
    loop.optimizer.step(closure)
    assert saved == [1.0, 1.0]
    assert before - float(loop.model.bias.detach()) == pytest.approx(0.1, rel=1e-4)
    assert loop.rate == 1.0
    loop.agent.close()


def test_a_scheduler_within_the_closure_goes_its_way() -> None:
    loop = Loop(sgd)

    def closure() -> float:  # as Lightning's, which runs training_step in it
        loop.backward()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the scheduler comes before the optimizer
            loop.scheduler.step()
        return 0.0

    for number in range(1, 4):
        before = float(loop.model.bias.detach())
        loop.optimizer.step(closure)
        assert loop.rate == 0.5**number
        assert before - float(loop.model.bias.detach()) == pytest.approx(0.1 * 0.5**number, rel=1e-4)
    loop.agent.close()


@pytest.mark.parametrize("when", ["before attach", "after attach"])
def test_a_hook_that_sets_the_rate_before_the_step_has_it_scaled(when: str) -> None:
    seen: list[float] = []

    def warm_up(optimizer: torch.optim.Optimizer, *_: object) -> None:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.param_groups[0]["lr"] = 0.5 ** len(seen)

    def make(parameters: Any) -> torch.optim.Optimizer:
        optimizer = sgd(parameters)
        if when == "before attach":
            optimizer.register_step_pre_hook(warm_up)
        return optimizer

    loop = Loop(make)
    if when == "after attach":
        loop.optimizer.register_step_pre_hook(warm_up)
    for number in range(1, 4):
        assert loop.step() == pytest.approx(0.1 * 0.5**number, rel=1e-4)
    assert seen == [1.0, 0.5, 0.25]
    loop.agent.close()


class OwnRate(torch.optim.SGD):
    """Sets its rate in its step, before or after the step of its base: `rule(rate, number of the step)`."""

    def __init__(self, parameters: Any, rule: Callable[[float, int], float], *, first: bool) -> None:
        super().__init__(parameters, lr=1.0)
        self.rule, self.first, self.steps = rule, first, 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        group = self.param_groups[0]
        if self.first:
            group["lr"] = self.rule(group["lr"], self.steps)
        loss = super().step(closure)
        if not self.first:
            group["lr"] = self.rule(group["lr"], self.steps)
        return loss


RULES: dict[str, Callable[[float, int], float]] = {
    "from the one before": lambda rate, number: 0.9 * rate,
    "from the number of the step": lambda rate, number: 0.9**number,
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_an_optimizer_that_sets_its_own_rate_has_it_scaled_once(rule: str, first: bool) -> None:
    loop = Loop(lambda parameters: OwnRate(parameters, RULES[rule], first=first))
    for number in range(1, 8):
        used = 0.9 ** (number if first else number - 1)
        assert loop.step() == pytest.approx(0.1 * used, rel=1e-3)
        assert loop.rate == pytest.approx(0.9**number)
    loop.agent.close()


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_rates_that_an_optimizer_keeps_are_in_the_scale_of_its_own(scale: float) -> None:
    torch.manual_seed(0)
    model, group = torch.nn.Linear(4, 1), {}
    for warm_up in (4, 0):
        optimizer = schedulefree.AdamWScheduleFree(model.parameters(), lr=0.01, warmup_steps=warm_up)
        optimizer.train()
        agent = steadynorm.attach(model, optimizer, mode="observe")
        agent._mailbox.put(Desired(1, msgspec.structs.replace(agent.settings, lr_scale=scale)))
        group = optimizer.param_groups[0]
        for number in range(1, 7):
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
            own = 0.01 * min(1.0, number / warm_up) if warm_up else 0.01
            assert group["lr"] == 0.01
            assert group["scheduled_lr"] == pytest.approx(own)
            # A rate that is held down during the warm-up raises it no further, until it is let go.
            assert group["lr_max"] == pytest.approx(own if scale > 1 or not warm_up else 0.0025)
        agent.close()


def test_what_others_wrapped_around_the_step_stays_when_the_agent_goes() -> None:
    loop = Loop(sgd)
    calls: list[int] = []
    inner = loop.optimizer.step

    def counted(*args: Any) -> Any:
        calls.append(1)
        return inner(*args)

    loop.optimizer.step = counted  # type: ignore[method-assign, assignment]  # as Accelerate's
    assert loop.step() == pytest.approx(0.1, rel=1e-4)
    loop.agent.close()
    assert loop.step() == pytest.approx(1.0, rel=1e-4)
    assert len(calls) == 2


def test_the_wrapped_step_can_be_scaled_copied_and_pickled() -> None:
    loop = Loop(lambda parameters: torch.optim.Adam(parameters, lr=1.0))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(loop.model(torch.ones(1, 4)).sum()).backward()
    scaler.step(loop.optimizer)
    scaler.update()
    assert loop.agent.step == 1
    for other in (copy.deepcopy(loop.optimizer), pickle.loads(pickle.dumps(loop.optimizer))):
        assert "step" not in vars(other)
        other.step()
    assert loop.agent.step == 1
    loop.agent.close()


class Rateless(torch.optim.Optimizer):
    """Finds its step by itself, as Adafactor with relative_step."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": None})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Moves nothing."""


@pytest.mark.parametrize("make", [Rateless, torch.optim.Rprop])
def test_lr_scale_is_rejected_where_no_group_has_a_rate(
    stub: StubServer, until: Until, make: Callable[[Any], torch.optim.Optimizer]
) -> None:
    model = torch.nn.Linear(4, 1)
    optimizer = make(model.parameters())
    agent = steadynorm.attach(model, optimizer, server=stub.url)

    def step() -> None:
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()

    step()
    stub.wait_for(lambda: stub.runs)
    revision = stub.change(lr_scale=0.1, gamma1=0.5)
    until(lambda: agent._mailbox.seen_revision == revision)
    step()
    stub.wait_for(lambda: stub.run.reports)
    (report,) = stub.run.reports
    assert report.outcome is RevisionOutcome.REJECTED
    assert f"no group of {type(optimizer).__name__} has one that it steps by" in report.reason
    assert (agent.settings.lr_scale, agent.settings.gamma1) == (1.0, 0.6)
    agent.close()
