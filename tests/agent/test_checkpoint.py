"""state_dict() and load_state_dict(): a run that is resumed is the run that was never interrupted."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch

import steadynorm
from steadynorm_contract.settings import SettingsError

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training

Until = Callable[[Callable[[], object]], None]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As torch.save and its safe torch.load restore it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def resumed(make: type[Training], old: Training) -> Training:
    """Another process's training, from the model's and the optimizer's own checkpoints."""
    new = make(seed=99)
    new.model.load_state_dict(old.model.state_dict())
    new.optimizer.load_state_dict(old.optimizer.state_dict())
    new.taken = old.taken
    return new


@pytest.mark.parametrize(
    "settings", [{}, {"mode": "observe"}, {"preset": "robust", "gamma2": 0.9}, {"observe_steps": 10}]
)
def test_a_resumed_run_equals_an_uninterrupted_one(make_training: type[Training], settings: dict[str, Any]) -> None:
    whole, first = make_training(), make_training()
    uninterrupted = steadynorm.attach(whole.model, whole.optimizer, **settings)
    interrupted = steadynorm.attach(first.model, first.optimizer, **settings)
    for _ in range(7):
        whole.step()
        first.step()
    second = resumed(make_training, first)
    state = through_a_file(interrupted.state_dict())
    interrupted.close()
    agent = steadynorm.attach(second.model, second.optimizer)
    agent.load_state_dict(state)
    for _ in range(7):
        whole.step()
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.weights(), second.weights(), strict=True))
    assert agent.statistics() == uninterrupted.statistics()
    assert agent.step == 14
    assert agent.settings == uninterrupted.settings
    agent.close()
    uninterrupted.close()


def test_an_agents_state_means_no_observation_first(make_training: type[Training]) -> None:
    first = make_training()
    agent = steadynorm.attach(first.model, first.optimizer)
    first.step()
    state = agent.state_dict()
    agent.close()
    second = resumed(make_training, first)  # an optimizer that has moments
    agent = steadynorm.attach(second.model, second.optimizer)
    agent.load_state_dict(state)
    second.step()
    assert agent.stabilizers[0].settings.mode is steadynorm.Mode.STABILIZE
    agent.close()


def test_the_run_goes_on_under_its_own_id_as_the_next_incarnation(
    make_training: type[Training], stub: StubServer, until: Until
) -> None:
    first = make_training()
    agent = steadynorm.attach(first.model, first.optimizer, server=stub.url, run="long")
    first.step()
    stub.wait_for(lambda: stub.runs)
    stub.change(gamma2=0.9)
    while agent.applied_revision == 0:
        first.step()
    taken = agent.step
    state = through_a_file(agent.state_dict())
    agent.close()
    second = resumed(make_training, first)
    resumed_agent = steadynorm.attach(second.model, second.optimizer, server=stub.url)
    resumed_agent.load_state_dict(state)
    assert resumed_agent.run_id == agent.run_id
    assert resumed_agent.applied_revision == 1
    second.step()
    resumed_agent.close()
    run = stub.runs[agent.run_id]  # the only one: attaching made none
    assert len(stub.runs) == 1
    assert run.incarnation == 2
    last = run.registrations[-1]
    assert (last.name, last.step, last.applied_revision, last.settings.gamma2) == ("long", taken, 1, 0.9)
    assert run.steps == list(range(1, taken + 2))
    assert len(run.reports) == 1  # the revision in force is not news


def test_another_name_or_another_model_begins_another_run(make_training: type[Training], stub: StubServer) -> None:
    first = make_training()
    agent = steadynorm.attach(first.model, first.optimizer, run="long")
    first.step()
    state = agent.state_dict()
    agent.close()
    second = resumed(make_training, first)
    renamed = steadynorm.attach(second.model, second.optimizer, run="another", server=stub.url)
    renamed.load_state_dict(state)
    assert renamed.run_id.startswith("another-")
    renamed.close()
    del state["parameters"]["0.bias"]
    other = steadynorm.attach(second.model, second.optimizer, run="long", server=stub.url)
    other.load_state_dict(state)
    assert other.run_id != agent.run_id
    other.close()


def test_names_that_only_one_side_has_are_listed_and_the_rest_is_loaded(
    make_training: type[Training], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = make_training(), make_training()
    agent = steadynorm.attach(first.model, first.optimizer)
    for _ in range(3):
        first.step()
    state = agent.state_dict()
    agent.close()
    state["parameters"]["gone.weight"] = state["parameters"].pop("2.bias")
    other = steadynorm.attach(second.model, second.optimizer)
    caplog.clear()
    other.load_state_dict(state)
    assert "lacks 1 parameter, started afresh: 2.bias" in caplog.text
    assert "has 1 parameter that the model lacks: gone.weight" in caplog.text
    loaded = other.state_dict()["parameters"]
    assert torch.equal(loaded["0.weight"], state["parameters"]["0.weight"])
    assert loaded["2.bias"].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    other.close()


def test_stop_and_pause_were_meant_for_the_process_before(make_training: type[Training], stub: StubServer) -> None:
    first, second = make_training(), make_training()
    agent = steadynorm.attach(first.model, first.optimizer, server=stub.url)
    first.step()
    stub.wait_for(lambda: stub.runs)
    stub.change(stop=True, gamma1=0.5)
    while not agent.should_stop:
        first.step()
    state = agent.state_dict()
    agent.close()
    other = steadynorm.attach(second.model, second.optimizer)
    other.load_state_dict(state)
    assert not other.should_stop
    assert other.settings.gamma1 == 0.5
    other.close()


def test_loading_in_the_middle_registers_the_next_incarnation(make_training: type[Training], stub: StubServer) -> None:
    training = make_training()
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    for _ in range(3):
        training.step()
    state = agent.state_dict()
    for _ in range(3):
        training.step()
    assert agent.flush()
    agent.load_state_dict(state)
    assert agent.step == 3
    training.step()
    agent.close()
    assert stub.run.steps == [1, 2, 3, 4, 5, 6, 4]
    assert stub.run.incarnation == 2
    assert stub.run.registrations[-1].step == 3
    assert [batch.incarnation for batch in stub.run.batches if batch.scalars and 4 in batch.scalars.steps] == [1, 2]


def test_what_an_operator_wants_holds_after_an_older_checkpoint_was_loaded(
    make_training: type[Training], stub: StubServer, until: Until
) -> None:
    training = make_training()
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    stub.wait_for(lambda: stub.runs)
    state = agent.state_dict()
    revision = stub.change(gamma1=0.5)
    until(lambda: agent._mailbox.seen_revision == revision)
    training.step()
    assert agent.flush(20)
    agent.load_state_dict(state)
    assert agent.applied_revision == 0
    training.step()
    until(lambda: stub.run.incarnation == 2 and agent._mailbox.seen_revision == revision)
    training.step()
    assert (agent.settings.gamma1, agent.applied_revision) == (0.5, revision)
    agent.close()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"version": 7}, "version 1 or 2: got 7"),
        ({"settings": {"gamma1": 2.0}}, "gamma1 must be in"),
        ({"revision": None}, "the agent's state has revision: got NoneType"),
        ({"step": "50"}, "the agent's state has step: got str"),
        ({"parameters": []}, "the agent's state has parameters: got list"),
    ],
)
def test_a_state_that_is_not_ours_is_refused_and_changes_nothing(
    training: Training, damage: dict[str, Any], said: str
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer)
    training.step()
    before = agent.state_dict()
    with pytest.raises((ValueError, SettingsError), match=said):
        agent.load_state_dict({**before, "step": 50, **damage})
    for other in ({}, {"version": 2}, None, [1]):
        with pytest.raises(ValueError, match="the agent's state"):
            agent.load_state_dict(other)  # type: ignore[arg-type]  # that is the point
    after = agent.state_dict()
    assert after["step"] == 1
    assert all(torch.equal(before["parameters"][name], rows) for name, rows in after["parameters"].items())
    agent.close()
