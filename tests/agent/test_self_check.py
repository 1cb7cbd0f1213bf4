"""The agent's check of the loop around it: one line, one warning for each finding, and an event."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

import steadynorm

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training

LOSS = 1.0


def warnings(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    """Those with `word` in them."""
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return [record.getMessage() for record in records if word in record.getMessage()]


def test_a_healthy_loop_is_told_in_one_line(
    training: Training, stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "steadynorm")
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    assert agent.health().summary == "4 of 4 tensors, no step yet, stabilizing"
    for _ in range(3):
        agent.log(loss=training.step())
    line = "4 of 4 tensors, steps seen, hooks once, gradients seen, stabilizing"
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.INFO][:1] == [line]
    assert agent.health()
    assert str(agent.health()) == line
    assert repr(agent).endswith(f"mode=stabilize: {line}>")
    agent.close()
    notes = [note for batch in stub.run.batches for note in batch.notes]
    assert [(note.kind, note.message) for note in notes] == [("self_check", line)]


def test_the_line_says_that_a_resumed_optimizer_is_observed_first(training: Training) -> None:
    training.step()
    with steadynorm.attach(training.model, training.optimizer) as agent:
        training.step()
        assert "observing 99 steps first because the optimizer has state" in agent.health().summary
        assert "observing 99 steps first because the optimizer has state" in repr(agent)


def test_the_line_is_told_again_when_observing_ends(
    training: Training, stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "steadynorm")
    with steadynorm.attach(training.model, training.optimizer, server=stub.url, observe_steps=5):
        for _ in range(8):
            training.step()
    notes = [note for batch in stub.run.batches for note in batch.notes]
    told = [(note.step, note.message.rpartition(", ")[2]) for note in notes]
    assert told == [(2, "observing 3 steps first because the optimizer has state"), (6, "stabilizing")]
    assert "gradients seen, stabilizing" in caplog.text


def test_an_optimizer_of_several_that_never_steps_is_warned_of(
    training: Training, caplog: pytest.LogCaptureFixture
) -> None:
    head = torch.nn.Linear(3, 3)
    late, never = (torch.optim.SGD([parameter], lr=0.1) for parameter in head.parameters())
    model = torch.nn.ModuleList([training.model, head])
    with steadynorm.attach(model, [training.optimizer, late, never]) as agent:
        for number in range(120):
            training.step()
            if number > 50:
                late.step()
        (finding,) = agent.health().findings
    assert (finding.name, finding.step) == ("idle_optimizer", 100)
    assert warnings(caplog, "none of optimizer 2 (SGD) of 3") == [finding.message]


def test_a_step_within_a_step_is_said_and_counted_once(training: Training) -> None:
    class Sub(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]  # no closure here
            super().step()

    torch.optim.SGD(training.model.parameters(), lr=0.1)  # from here on torch calls the hooks in SGD.step(), too
    training.optimizer = Sub(training.model.parameters(), lr=0.1)
    with steadynorm.attach(training.model, training.optimizer) as agent:
        training.step()
        assert agent.step == 1
        assert "hooks nested in a subclass and counted once" in agent.health().summary


def test_a_loop_without_gradients_is_warned_once(
    training: Training, stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    for _ in range(99):
        training.optimizer.step()
    assert agent.health()
    for _ in range(50):
        training.optimizer.step()
    (warned,) = warnings(caplog, "without any gradient")
    assert "100 steps" in warned
    assert not agent.health()
    assert [finding.name for finding in agent.health().findings] == ["no_gradient"]
    agent.close()
    notes = [note for batch in stub.run.batches for note in batch.notes if note.kind == "finding"]
    assert [note.message for note in notes] == [warned]


def test_losses_without_a_step_of_the_attached_optimizer_are_warned_of_once(
    training: Training, caplog: pytest.LogCaptureFixture
) -> None:
    other = torch.optim.RAdam(training.model.parameters())
    with steadynorm.attach(training.model, other) as agent:
        for _ in range(60):
            agent.log(loss=training.step())
    (warned,) = warnings(caplog, "no step of RAdam")
    assert warned.startswith("20 losses")
    assert not warnings(caplog, "closed without")


def test_a_loop_that_goes_on_with_another_optimizer_is_warned_of_once(
    training: Training, caplog: pytest.LogCaptureFixture
) -> None:
    first = training.optimizer
    with steadynorm.attach(training.model, first) as agent:
        for _ in range(3):
            agent.log(loss=training.step())
        for _ in range(600):  # an evaluation, or parts of an accumulated step: nothing moves
            agent.log(loss=LOSS)
        assert agent.health()
        training.optimizer = torch.optim.RAdam(training.model.parameters())  # as in the next phase of a training
        for _ in range(600):
            agent.log(loss=training.step())
    (warned,) = warnings(caplog, "no step of AdamW since step 3")
    assert "600" not in warned.split()[0], "not at the end only"
    assert [finding.name for finding in agent.health().findings] == ["steps_ended"]


def test_a_resumed_loop_without_a_step_is_warned_of(
    make_training: type[Training], caplog: pytest.LogCaptureFixture
) -> None:
    before = make_training()
    with steadynorm.attach(before.model, before.optimizer) as agent:
        before.step()
        state = agent.state_dict()
    training = make_training()
    other = torch.optim.RAdam(training.model.parameters())
    with steadynorm.attach(training.model, other) as agent:
        agent.load_state_dict(state)
        for _ in range(40):
            agent.log(loss=training.step())
    assert len(warnings(caplog, "20 losses, no step of RAdam")) == 1


def test_losses_of_an_accumulated_step_are_no_finding(training: Training, caplog: pytest.LogCaptureFixture) -> None:
    with steadynorm.attach(training.model, training.optimizer) as agent:
        for _ in range(64):
            loss = training.model(torch.ones(2, 6)).sum()
            loss.backward()
            agent.log(loss=loss)
        training.optimizer.step()
    assert agent.health()
    assert not warnings(caplog, "no step")


def test_closing_without_a_step_is_warned_of(training: Training, caplog: pytest.LogCaptureFixture) -> None:
    steadynorm.attach(training.model, training.optimizer).close()
    assert len(warnings(caplog, "closed without a step of AdamW")) == 1
    caplog.clear()
    steadynorm.attach(training.model, training.optimizer).close(state="failed")
    assert not warnings(caplog, "without a step")


def test_an_optimizer_of_another_model_is_warned_of(
    make_training: type[Training], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = make_training(), make_training()
    with steadynorm.attach(one.model, other.optimizer) as agent:
        assert len(warnings(caplog, "none of the parameters of AdamW is in the model")) == 1
        assert [finding.name for finding in agent.health().findings] == ["parameters"]
        other.step()


def test_parameters_that_are_not_the_models_are_counted(training: Training, caplog: pytest.LogCaptureFixture) -> None:
    training.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    with steadynorm.attach(training.model, training.optimizer) as agent:
        assert [finding.name for finding in agent.health().findings] == ["parameters"]
        assert len(warnings(caplog, "1 of the 5 parameters of AdamW is not in the model")) == 1
        training.step()


def test_an_agent_that_came_before_the_other_ranks_says_so(
    training: Training, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer)
    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        for _ in range(3):
            training.step()
    finally:
        torch.distributed.destroy_process_group()
    assert [finding.name for finding in agent.health().findings] == ["attached_too_early"]
    assert len(warnings(caplog, "there are 2 ranks now")) == 1
    agent.close()


def test_a_group_without_a_rate_is_warned_of(training: Training, caplog: pytest.LogCaptureFixture) -> None:
    training.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": None})
    with steadynorm.attach(training.model, training.optimizer):
        assert len(warnings(caplog, "1 of 2 parameter groups of AdamW have no learning rate")) == 1
        training.optimizer.param_groups.pop()
        training.step()


@pytest.mark.parametrize("mode", ["off", "observe", "stabilize"])
def test_without_a_server_the_log_names_the_mode(
    training: Training, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    with steadynorm.attach(training.model, training.optimizer, mode=mode):
        (warned,) = warnings(caplog, "no server is given")
        assert f"(mode={mode})" in warned
        assert "stabilized" not in warned
        training.step()


@pytest.mark.parametrize(
    ("attribute", "value", "shown"),
    [("ds_id", 3, "ds_id"), ("main_grad", torch.zeros(1), "main_grad"), ("_is_flat_param", True, "FlatParameter")],
)
def test_parameters_of_other_sharding_libraries_are_refused(
    training: Training, attribute: str, value: object, shown: str
) -> None:
    setattr(training.model[2].weight, attribute, value)
    with pytest.raises(ValueError, match=f"{shown}.*fully_shard"):
        steadynorm.attach(training.model, training.optimizer)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("fairscale.nn.data_parallel.fully_sharded_data_parallel", "FullyShardedDataParallel"),
        ("fairscale.nn.data_parallel.sharded_ddp", "ShardedDataParallel"),
    ],
)
def test_modules_of_other_sharding_libraries_are_refused(training: Training, module: str, name: str) -> None:
    kind = type(name, (torch.nn.Sequential,), {"__module__": module})
    with pytest.raises(ValueError, match=f"{module}.{name}.*fully_shard"):
        steadynorm.attach(kind(training.model), training.optimizer)


@pytest.mark.parametrize(
    ("module", "name", "advice"),
    [
        ("deepspeed.runtime.zero.stage_1_and_2", "DeepSpeedZeroOptimizer", "fully_shard"),
        ("megatron.core.optimizer.distrib_optimizer", "DistributedOptimizer", "fully_shard"),
        ("apex.contrib.optimizers.distributed_fused_adam", "DistributedFusedAdam", "fully_shard"),
        ("colossalai.zero.low_level.low_level_optim", "LowLevelZeroOptimizer", "fully_shard"),
        ("horovod.torch.optimizer", "AdamW", "DistributedDataParallel"),
    ],
)
def test_optimizers_of_other_sharding_libraries_are_refused(
    training: Training, module: str, name: str, advice: str
) -> None:
    kind = type(name, (), {"__module__": module})
    wrapper = kind()
    wrapper.optimizer = training.optimizer  # as both keep the one that steps
    with pytest.raises(ValueError, match=f"{module}.{name}.*{advice}"):
        steadynorm.attach(training.model, wrapper)


def test_the_variable_and_the_argument_lead_to_the_same_page(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "http://127.0.0.1:9"
    home = tmp_path / "home"
    home.mkdir()
    (home / "server.json").write_text(f'{{"server": "{address}", "dashboard": "http://127.0.0.1:10"}}')
    agent = steadynorm.attach(training.model, training.optimizer, server=address, run="linked")
    by_argument = agent.url
    agent.close()
    monkeypatch.setenv("STEADYNORM_SERVER", address)
    agent = steadynorm.attach(training.model, training.optimizer, run="linked")
    assert agent.url == f"http://127.0.0.1:10/?run={agent.run_id}"
    assert by_argument is not None
    assert by_argument.startswith("http://127.0.0.1:10/?run=linked-")
    monkeypatch.setenv("STEADYNORM_SERVER", "http://far.example")
    assert agent.url == f"http://127.0.0.1:10/?run={agent.run_id}"
    agent.close()
