"""What goes wrong inside the agent never reaches the training loop."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import torch

import steadynorm
from steadynorm_contract.codec import decode_batch

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training

    from steadynorm.agent import Agent

PLACES = {
    "at the boundary": ("_boundary", "begin_step"),
    "in the stabilizer": ("_stabilizers.0", "apply"),
    "in the recorder": ("_recorder", "put"),
    "in the loss": ("_recorder", "put_loss"),
}


def break_it(agent: Agent, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call there raises, and so do all later ones."""
    owner, name = PLACES[place]
    target: object = agent
    for part in owner.split("."):
        target = target[int(part)] if isinstance(target, list) else getattr(target, part)

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(target, name, broken)


@pytest.mark.parametrize("place", PLACES)
def test_an_internal_exception_turns_the_agent_off_and_training_goes_on(
    training: Training,
    stub: StubServer,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, logger="steadynorm")
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    for _ in range(5):
        agent.log(loss=training.step())
    break_it(agent, place, monkeypatch)
    before = training.weights()
    for _ in range(5):
        agent.log(loss=training.step())
    assert all(not torch.equal(a, b) for a, b in zip(before, training.weights(), strict=True))
    assert agent.counters.errors == 1
    assert caplog.text.count("injected") == 2  # one log line: its traceback, and where that begins
    assert caplog.text.count("turned itself off") == 1
    agent.close()
    assert stub.run.batches[-1].counters.errors == 1  # the server is told
    assert len(stub.run.steps) >= 4


def test_after_an_error_gradients_pass_with_the_gain_that_makes_the_switch_bumpless(
    training: Training, stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    for _ in range(5):
        training.step()
    break_it(agent, "at the boundary", monkeypatch)
    training.step()
    gains = agent.stabilizers[0].state_dict()["parameters"]
    row = agent.statistics()["0.weight"]
    assert row["scale"] == gains["0.weight"][5].item()
    assert row["scale"] == pytest.approx(1 / row["norm_rms"], rel=1e-5)
    agent.close()


def test_when_even_passing_fails_the_gradient_is_left_alone(
    make_training: type[Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, broken = make_training(), make_training()
    agent = steadynorm.attach(broken.model, broken.optimizer)
    break_it(agent, "in the stabilizer", monkeypatch)
    for _ in range(4):
        plain.step()
        broken.step()
    assert all(torch.equal(a, b) for a, b in zip(plain.weights(), broken.weights(), strict=True))
    agent.close()


def test_a_users_exception_in_a_closure_is_the_users(training: Training) -> None:
    agent = steadynorm.attach(training.model, training.optimizer)

    def closure() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        training.optimizer.step(closure)
    assert agent.counters.errors == 0
    agent.close()


def test_an_error_while_sending_is_counted_and_what_comes_later_is_sent(
    training: Training,
    stub: StubServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    publisher = agent._publisher
    assert publisher is not None
    monkeypatch.setattr(publisher._backoff, "slow_s", lambda: 0.0)
    real = publisher._batches.next_body
    calls = iter([ValueError("injected")])

    def next_body() -> bytes | None:
        body = real()
        # One with a step: a report that is lost is sent again, and loses no record.
        if body is not None and decode_batch(body).scalars and (error := next(calls, None)) is not None:
            raise error
        return body

    monkeypatch.setattr(publisher._batches, "next_body", next_body)
    for _ in range(3):
        training.step()
    agent.flush()
    stub.wait_for(lambda: stub.runs and stub.run.batches)  # the error itself
    for _ in range(3):
        training.step()
    agent.close()
    counters = agent.counters
    assert stub.run.steps[-3:] == [4, 5, 6]
    assert counters.errors == 1
    assert counters.dropped > 0
    assert counters.produced == counters.acknowledged + counters.dropped
    assert caplog.text.count("internal error while sending") == 1


def test_a_model_that_is_moved_after_attach_is_named_as_the_cause(
    training: Training, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server="")
    training.step()
    monkeypatch.setattr(agent.stabilizers[0], "device", torch.device("cuda", 0))  # where it was, if this machine had it

    def refuse(*_: object) -> None:
        raise RuntimeError("Expected all tensors to be on the same device")

    monkeypatch.setattr(agent.stabilizers[0], "apply", refuse)
    training.step()
    (said,) = [each.getMessage() for each in caplog.records if "another device than at attach()" in each.getMessage()]
    assert "4 parameters" in said
    assert "0.weight on cpu, then on cuda:0" in said
    assert agent.counters.errors == 1
    agent.close()
