"""A module that has its agent as an attribute is copied, saved and sent to other processes as without one."""

from __future__ import annotations

import copy
import io
import logging
import multiprocessing
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch

import steadynorm
from steadynorm.copies import AgentCopy

if TYPE_CHECKING:
    from tests.support.agent import StubServer


class Model(torch.nn.Module):
    """Holds its optimizer's agent, as a LightningModule or a trainer may."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.agent: Any = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(inputs)
        return result


@pytest.fixture
def model(stub: StubServer) -> Model:
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.agent = steadynorm.attach(model, optimizer, server=stub.url)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    model.optimizer = optimizer  # type: ignore[assignment]  # nn.Module takes anything
    return model


def test_a_deep_copy_has_the_same_agent(model: Model) -> None:
    assert copy.deepcopy(model).agent is copy.copy(model).agent is model.agent
    model.agent.close()


def test_averages_of_weights_are_made_and_updated(model: Model) -> None:
    average = torch.optim.swa_utils.AveragedModel(model)
    ema = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )  # fmt: skip
    for each in (average, ema):
        each.update_parameters(model)
        assert each.module.agent is model.agent
    model.agent.close()


def test_a_saved_model_has_an_inert_agent_that_says_what_it_is(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="steadynorm")
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded.layer.weight, model.layer.weight)
    agent = loaded.agent
    assert isinstance(agent, AgentCopy)
    assert agent.run_id == model.agent.run_id
    with agent:  # a loop goes on with it, and is told once
        for _ in range(3):
            agent.before_clip()
            agent.log(loss=1.0)
            agent.log({"eval/loss": 1.0}, step=7)
        agent.describe("eval/loss", unit="nats", reduce="mean")
        agent.note("a new epoch")
        assert agent.on_checkpoint(print) is print
    agent.close()
    assert (agent.closed, agent.should_stop, agent.flush()) == (True, False, True)
    assert [record.message for record in caplog.records if "inert copy" in record.message] != []
    assert caplog.text.count("inert copy") == 1
    with pytest.raises(AttributeError, match=r"statistics: this is an inert copy of the agent of run .*attach\(\)"):
        agent.statistics()
    assert pickle.loads(pickle.dumps(agent)).run_id == agent.run_id
    assert isinstance(copy.deepcopy(agent), AgentCopy)
    model.agent.close()


def test_state_of_the_model_does_not_know_the_agent(model: Model) -> None:
    assert list(model.state_dict()) == ["layer.weight", "layer.bias"]
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "agent": model.agent.state_dict()}, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["agent"]["step"] == 1
    model.agent.close()


def _in_another_process(model: Model, answers: Any) -> None:
    model.agent.log(loss=1.0)
    answers.put((type(model.agent).__name__, model.agent.closed, float(model(torch.ones(1, 3)).detach())))


@pytest.mark.slow
def test_a_spawned_worker_gets_the_model_with_an_inert_agent(model: Model, stub: StubServer) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    worker = context.Process(target=_in_another_process, args=(model, answers))
    worker.start()
    kind, closed, value = answers.get(timeout=120)
    worker.join(60)
    assert worker.exitcode == 0
    assert (kind, closed) == ("AgentCopy", True)
    assert value == pytest.approx(float(model(torch.ones(1, 3)).detach()))
    model.agent.close()
    assert len(stub.run.registrations) == 1
