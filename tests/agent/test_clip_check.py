"""before_clip() at a wrong place, or followed by a clip, is one warning with what to do; at the right place, none."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch

import steadynorm
from steadynorm.clip_check import COMPARED, STEPS, ClipCheck
from steadynorm_contract.settings import Settings

if TYPE_CHECKING:
    from tests.support.agent import Training

Names = list[str]


class Loop:
    """A loop with a clip in its four forms: what the agent finds."""

    def __init__(self, training: Training, mode: str = "stabilize") -> None:
        self.model, self.optimizer = training.model, training.optimizer
        self.agent = steadynorm.attach(self.model, self.optimizer, mode=mode, server="")

    def loss(self) -> torch.Tensor:
        loss: torch.Tensor = self.model(torch.randn(16, 6)).square().mean() * 100
        return loss

    def backward(self) -> None:
        self.loss().backward()

    def clip(self, max_norm: float) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)

    def run(self, step: Callable[[], None], steps: int = 8) -> Names:
        torch.manual_seed(0)
        for _ in range(steps):
            self.optimizer.zero_grad()
            step()
        names = [finding.name for finding in self.agent.health().findings]
        assert self.agent.counters.errors == 0
        self.agent.close()
        return names

    def before_clip_and_clip(self, max_norm: float) -> None:
        self.backward()
        self.agent.before_clip()
        self.clip(max_norm)
        self.optimizer.step()

    def each_part(self) -> None:
        for _ in range(3):
            self.backward()
            self.agent.before_clip()
        self.optimizer.step()

    def last_part(self) -> None:
        for _ in range(3):
            self.backward()
        self.agent.before_clip()
        self.optimizer.step()

    def skipping(self) -> None:
        self.backward()
        self.agent.before_clip()
        if self.agent.step % 3:
            self.agent.before_clip()  # as the next one, where this step is skipped
        self.optimizer.step()


@pytest.mark.parametrize(
    ("mode", "max_norm", "found"),
    [("stabilize", 1.0, True), ("stabilize", 1e6, False), ("observe", 0.1, False), ("clip", 0.1, False)],
)
def test_a_clip_that_acts_after_the_stabilizer_is_told(
    training: Training, caplog: pytest.LogCaptureFixture, mode: str, max_norm: float, found: bool
) -> None:
    loop = Loop(training, mode)
    assert loop.run(lambda: loop.before_clip_and_clip(max_norm)) == (["clip_after_stabilizer"] if found else [])
    said = [record for record in caplog.records if "between before_clip() and step()" in record.getMessage()]
    assert len(said) == found


def test_a_run_that_is_stabilized_later_is_looked_at_then(training: Training) -> None:
    loop = Loop(training, "observe")

    def step() -> None:
        if loop.agent.step == 20:
            for stabilizer in loop.agent.stabilizers:
                stabilizer.configure(mode="stabilize")
        loop.before_clip_and_clip(0.1)

    assert loop.run(step, 25) == ["clip_after_stabilizer"]


def test_accumulation_that_is_measured_in_parts_is_told(
    make_training: type[Training], caplog: pytest.LogCaptureFixture
) -> None:
    parts = Loop(make_training())
    assert parts.run(parts.each_part) == ["before_clip_repeated"]
    assert "called 3 times for each step" in caplog.text
    for name in ("last_part", "skipping"):
        loop = Loop(make_training())
        assert loop.run(getattr(loop, name)) == []


@pytest.mark.parametrize(("enabled", "fused"), [(True, False), (True, True), (False, False)])
def test_a_scaler_that_is_enabled_is_told(
    make_training: type[Training], caplog: pytest.LogCaptureFixture, enabled: bool, fused: bool
) -> None:
    loop = Loop(make_training(make=lambda parameters, lr: torch.optim.AdamW(parameters, lr, fused=fused)))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=enabled)

    def step() -> None:
        scaler.scale(loop.loss()).backward()
        loop.agent.before_clip()
        scaler.step(loop.optimizer)
        scaler.update()

    assert loop.run(step) == (["before_clip_with_scaler"] if enabled else [])
    said = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert sum("Leave before_clip() out" in each for each in said) == enabled


def test_a_second_step_with_the_same_gradients_is_told(make_training: type[Training]) -> None:
    def twice(loop: Loop) -> None:
        loop.backward()
        loop.optimizer.step()
        loop.optimizer.step()

    def accumulating(loop: Loop) -> None:  # without zero_grad()
        for _ in range(2):
            loop.backward()
            loop.optimizer.step()

    def constant(loop: Loop) -> None:  # a fresh gradient that has the values of the one before
        for parameter in loop.model.parameters():
            parameter.grad = torch.full_like(parameter, 3.0)
        loop.optimizer.step()

    found = []
    for step, mode in ((twice, "stabilize"), (twice, "observe"), (accumulating, "stabilize"), (constant, "stabilize")):
        loop = Loop(make_training(), mode)
        found.append(loop.run(functools.partial(step, loop)))
    assert found == [["stale_gradients"], [], [], []]


def test_gradients_that_stay_zero_are_not_taken_for_those_of_the_step_before() -> None:
    heads = torch.nn.ModuleList(torch.nn.Linear(6, 1) for _ in range(6))
    optimizer = torch.optim.SGD(heads.parameters(), lr=1e-3)
    with steadynorm.attach(heads, optimizer, server="") as agent:
        for _ in range(8):
            optimizer.zero_grad()
            unused = sum(parameter.sum() for parameter in heads.parameters())  # as programs for DDP touch them
            (heads[5](torch.randn(4, 6)).square().mean() + 0 * unused).backward()
            optimizer.step()
        assert agent.health().findings == ()


def test_where_nothing_can_be_compared_a_few_steps_are_looked_at_and_no_more() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3, device="meta"))
    stabilizers: Any = [SimpleNamespace(settings=Settings(), parameters=[parameter])]
    check: Any = SimpleNamespace(findings={})
    clips = ClipCheck(check)
    looks = 0
    while looks < 20 and clips.looks_at(stabilizers):
        clips.begins()
        clips.stabilized(stabilizers)
        looks += 1
    assert looks == STEPS
    with mock.patch("steadynorm.clip_check._smallest", return_value=[]) as smallest:
        for _ in range(20):
            clips.measured(stabilizers)
            clips.steps(None)
    assert smallest.call_count == COMPARED


def test_one_tensor_as_the_gradient_of_two_parameters_is_told(training: Training) -> None:
    loop = Loop(training)

    def step() -> None:
        loop.backward()
        first, second = loop.model[0].bias, torch.nn.Parameter(torch.zeros(8))
        if loop.agent.step == 0:
            loop.optimizer.add_param_group({"params": [second]})
        loop.optimizer.param_groups[1]["params"][0].grad = first.grad
        loop.optimizer.step()

    assert loop.run(step) == ["shared_gradients"]


def test_values_on_an_accelerator_are_never_compared_which_would_wait_for_it() -> None:
    """A meta tensor has no value that could be read, as one on a GPU has none without a wait."""
    told: list[str] = []
    check: Any = SimpleNamespace(findings={}, report=lambda name, _: told.append(name))
    parameter = torch.nn.Parameter(torch.zeros(3, device="meta"))
    parameter.grad = torch.zeros(3, device="meta")
    stabilizers: Any = [SimpleNamespace(settings=Settings(), parameters=[parameter])]
    clips = ClipCheck(check)
    for _ in range(6):
        clips.begins()
        clips.stabilized(stabilizers)
        clips.measured(stabilizers)
        clips.steps(None)
    assert told == []
