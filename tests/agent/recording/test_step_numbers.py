"""`agent.log(step=...)`: what people see is numbered as the training loop numbers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.support.agent import wait_until

import steadynorm
from steadynorm.recording.step_numbers import StepNumbers

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training
    from tests.support.local_server import RunningStack


def steps_of(stub: StubServer) -> list[int]:
    """The steps of all records, in the order of their arrival."""
    return [step for batch in stub.run.batches if batch.scalars for step in batch.scalars.steps]


@pytest.mark.parametrize("logged", ["after", "before"])
def test_a_loop_that_counts_from_0_finds_its_own_numbers(training: Training, stub: StubServer, logged: str) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    for step in range(5):
        if logged == "before":
            agent.log(step=step)
        loss = training.step()
        agent.log(loss=loss, step=step) if logged == "after" else agent.log(loss=loss)
    assert agent.flush(20)
    revision = stub.change(gamma2=0.9)
    wait_until(lambda: agent._mailbox.seen_revision == revision)
    training.step()  # without a number: it counts on
    agent.note("here")
    agent.close()
    assert steps_of(stub) == [0, 1, 2, 3, 4, 5]
    assert [report.step for report in stub.run.reports if report.revision == revision] == [5]
    assert [note.step for batch in stub.run.batches for note in batch.user_notes] == [5]
    assert agent.step == 6


def test_a_step_may_be_logged_twice(training: Training, stub: StubServer, caplog: pytest.LogCaptureFixture) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    for step in range(0, 50, 10):
        agent.log(loss=training.step(), step=step)
        agent.log(batch_id=f"shard-{step}", step=step)
    assert agent.flush(20)
    agent.close()
    assert steps_of(stub) == [0, 10, 20, 30, 40]
    assert "must grow" not in caplog.text


def test_a_checkpoint_has_the_number_of_a_step_that_is_not_collected_yet(training: Training, stub: StubServer) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    publisher = agent._publisher
    assert publisher is not None
    with publisher.collector._lock:  # nothing is collected meanwhile
        agent.log(step=0)  # of the first step, which is the agent's 1
        training.step()
        assert agent.state_dict()["step_offset"] == -1
        training.step()
        agent.log(step=1000)
        agent.log(step=7)  # of the coming step: it must grow, so it is ignored
        training.step()
        state = agent.state_dict()
        assert (state["step"], state["step_offset"]) == (3, 998)
        agent.load_state_dict(state)
        assert agent.state_dict()["step_offset"] == 998
        training.step()
        agent.log(step=50)  # the loop counts from elsewhere since
        assert agent.state_dict()["step_offset"] == 46
    agent.close()


def test_a_checkpoint_keeps_the_numbers(make_training: type[Training], stub: StubServer) -> None:
    first = make_training()
    agent = steadynorm.attach(first.model, first.optimizer, server=stub.url, run="r")
    for step in range(1000, 1003):
        agent.log(loss=first.step(), step=step)
    assert agent.flush(20)
    state = agent.state_dict()
    assert (state["step"], state["step_offset"]) == (3, 999)
    agent.close()
    second = make_training()
    resumed = steadynorm.attach(second.model, second.optimizer, server=stub.url, run="r")
    resumed.load_state_dict(state)
    second.step()
    resumed.close()
    assert steps_of(stub)[-1] == 1003
    assert stub.run.registrations[-1].step == 1002
    del state["step_offset"]  # of an agent that knew none
    third = make_training()
    older = steadynorm.attach(third.model, third.optimizer)
    older.load_state_dict(state)
    older.close()


def test_numbers_only_grow_and_one_that_does_not_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    numbers = StepNumbers()
    asked = [(1, 0), (2, None), (3, 2), (4, 10), (5, 10), (6, 3), (7, None), (8, 20)]
    assert [numbers.number(step, logged) for step, logged in asked] == [0, 1, 2, 10, 11, 12, 13, 20]
    assert caplog.text.count("is ignored: step must grow, and the step before it was recorded as 10") == 1
    assert numbers.number(3, 1) == 1  # a checkpoint was loaded: the agent's own number went back too
    assert numbers.number(4, None) == 2


@pytest.mark.parametrize("wrong", [1.0, "1", True, torch.tensor(1)])
def test_a_step_is_a_whole_number(training: Training, wrong: Any) -> None:
    agent = steadynorm.attach(training.model, training.optimizer)
    with pytest.raises(TypeError, match="step must be a whole number"):
        agent.log(step=wrong)
    for bad in (-1, 2**53):
        with pytest.raises(ValueError, match="step must be in"):
            agent.log(step=bad)
    agent.close()


def test_the_real_server_shows_the_loops_numbers(training: Training, stack: RunningStack) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stack.server, token=stack.token)
    for step in range(40):
        agent.log(loss=training.step(spike=1e4 if step == 30 else 1.0), step=step)
    agent.close()
    assert stack.client.run(agent.run_id).step == 39
    spikes = [event.step for event in stack.client.events(agent.run_id).events if event.kind == "spike"]
    assert spikes == [30]
