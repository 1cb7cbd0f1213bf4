"""The agent in a training loop: what it leaves alone and what it records."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from tests.support.agent import rates_used

import steadynorm
from steadynorm.recording import ring_buffer
from steadynorm.transport import publisher

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training


def test_observing_from_the_start_leaves_the_weights_bit_identical(
    make_training: type[Training], stub: StubServer
) -> None:
    plain, watched = make_training(), make_training()
    agent = steadynorm.attach(watched.model, watched.optimizer, server=stub.url, mode="observe")
    for _ in range(300):
        plain.step()
        agent.log(loss=watched.step())
    agent.close()
    assert all(torch.equal(a, b) for a, b in zip(plain.weights(), watched.weights(), strict=True))
    assert stub.run.steps == list(range(1, 301))
    assert min(stub.run.column("raw_norm")) > 0  # it did measure


def test_attached_training_equals_calling_the_stabilizer_oneself(make_training: type[Training]) -> None:
    by_hand, attached = make_training(), make_training()
    stabilizer = steadynorm.GradientStabilizer(by_hand.model.named_parameters(), gamma2=0.9)
    by_hand.optimizer.register_step_pre_hook(lambda *_: stabilizer.apply())
    agent = steadynorm.attach(attached.model, attached.optimizer, gamma2=0.9)
    for _ in range(20):
        by_hand.step()
        attached.step()
    assert all(torch.equal(a, b) for a, b in zip(by_hand.weights(), attached.weights(), strict=True))
    assert agent.statistics() == stabilizer.statistics()
    agent.close()


def test_a_ring_that_is_half_full_wakes_the_publisher_before_steps_are_lost(
    training: Training, stub: StubServer, until: Callable[[Callable[[], object]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "PERIOD_S", 3600.0)  # nothing else wakes it
    for bound in ("MIN_STEPS", "MAX_STEPS"):
        monkeypatch.setattr(ring_buffer, bound, 16)
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    recorder = agent._recorder
    assert recorder is not None
    for _ in range(64):
        training.step()
        if recorder.backlog() > 8:
            until(lambda: recorder.backlog() <= 8)
    agent.close()
    assert stub.run.steps == list(range(1, 65))
    assert agent.counters.dropped == 0


def test_every_step_is_stored_once_with_its_numbers(training: Training, stub: StubServer) -> None:
    losses = []
    with steadynorm.attach(training.model, training.optimizer, run="A run", server=stub.url, detail_every=4) as agent:
        assert agent.run_id.startswith("a-run-")
        for _ in range(30):
            losses.append(training.step())
            agent.log(loss=losses[-1])
    run = stub.runs[agent.run_id]
    assert run.steps == list(range(1, 31))
    assert run.column("loss") == pytest.approx([loss.item() for loss in losses])
    assert run.column("learning_rate") == pytest.approx([0.01] * 30)
    assert all(norm > 0 for norm in run.column("raw_norm"))
    assert sorted(run.row_steps) == [1, 4, 8, 12, 16, 20, 24, 28]
    assert [parameter.name for parameter in run.registrations[0].parameters] == [
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
    ]
    assert run.registrations[0].parameters[0].shape == (8, 6)
    assert run.registrations[0].name == "A run"
    assert agent.counters.acknowledged == agent.counters.produced == 38


def test_a_spike_brings_the_rows_of_the_64_steps_around_it(training: Training, stub: StubServer) -> None:
    with steadynorm.attach(training.model, training.optimizer, server=stub.url, detail_every=1000) as agent:
        for step in range(1, 201):
            training.step(spike=1000.0 if step == 100 else 1.0)
    assert [step for step, spikes in zip(stub.run.steps, stub.run.column("spikes"), strict=True) if spikes] == [100]
    assert sorted(stub.run.row_steps) == [1, *range(100 - 32, 100 + 32)]
    assert agent.counters.dropped == 0


def test_a_loss_belongs_to_the_last_step_or_else_to_the_coming_one(training: Training, stub: StubServer) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    agent.log(loss=1)  # before the first step: held for it
    training.step()
    agent.log(loss=torch.tensor([2.0]))  # the first step has its loss: held for the second
    training.step()
    training.step()
    agent.log(loss=torch.tensor(3.0, requires_grad=True))
    training.step()  # never gets one
    agent.close()
    assert stub.run.column("loss")[:3] == [1.0, 2.0, 3.0]
    assert math.isnan(stub.run.column("loss")[3])


def test_log_refuses_what_is_no_loss(training: Training) -> None:
    agent = steadynorm.attach(training.model, training.optimizer)
    with pytest.raises(ValueError, match=r"one number: got shape \(3,\)"):
        agent.log(loss=torch.ones(3))
    with pytest.raises(TypeError, match="loss must be a number or a tensor of one element: got str"):
        agent.log(loss="low")  # type: ignore[arg-type]  # what is tested
    agent.close()


def two_optimizers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    first, second = list(model.parameters())[:2], list(model.parameters())[2:]
    return [torch.optim.SGD(first, lr=0.1), torch.optim.AdamW(second, lr=0.001)]


def test_optimizers_that_step_one_after_the_other_make_one_step(training: Training, stub: StubServer) -> None:
    optimizers = two_optimizers(training.model)
    whole = []
    with steadynorm.attach(training.model, optimizers, server=stub.url, mode="observe", detail_every=2) as agent:
        for _ in range(6):
            training.step()  # its own optimizer is not attached: this computes gradients
            gradients = [parameter.grad for parameter in training.model.parameters() if parameter.grad is not None]
            whole.append(torch.nn.utils.get_total_norm(gradients).item())
            for optimizer in optimizers:
                optimizer.step()
        assert agent.step == 6
    assert stub.run.steps == [1, 2, 3, 4, 5, 6]
    assert stub.run.column("raw_norm") == pytest.approx(whole)
    assert stub.run.column("learning_rate") == pytest.approx([0.1] * 6)
    rows = [batch.rows for batch in stub.run.batches if batch.rows]
    assert {row.parameters for row in rows} == {4}


def test_a_round_ends_when_an_optimizer_comes_again(training: Training, stub: StubServer) -> None:
    training.step()
    first, second = two_optimizers(training.model)
    with steadynorm.attach(training.model, [first, second], server=stub.url) as agent:
        seen = []
        for optimizer in [first, second, first, first, second, second, first]:
            optimizer.step()
            seen.append(agent.step)
    assert seen == [1, 1, 2, 3, 3, 4, 4]
    assert stub.run.steps == [1, 2, 3, 4]


def test_a_closure_is_measured_at_its_first_evaluation_of_a_step(
    make_training: type[Training], stub: StubServer
) -> None:
    training = make_training(make=torch.optim.LBFGS)
    norms: list[float] = []
    firsts: list[float] = []

    def closure() -> float:
        training.optimizer.zero_grad()
        loss = training.model(torch.ones(4, 6)).square().mean()
        loss.backward()
        gradients = [parameter.grad for parameter in training.model.parameters() if parameter.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
        return float(loss.detach())

    with steadynorm.attach(training.model, training.optimizer, server=stub.url) as agent:
        training.optimizer.step(closure)
        second = len(norms)
        training.optimizer.step(closure=closure)
        firsts = [norms[0], norms[second]]
        updates = {row["updates"] for row in agent.statistics().values()}
    assert len(norms) > 10
    assert updates == {2}
    assert stub.run.steps == [1, 2]
    assert stub.run.column("raw_norm") == pytest.approx(firsts)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_lr_scale_acts_during_the_step_and_leaves_no_trace(
    make_training: type[Training], stub: StubServer, as_tensor: bool
) -> None:
    rates = 0.1 if not as_tensor else torch.tensor(0.1)
    training = make_training(make=lambda parameters, lr: torch.optim.SGD(parameters, lr=rates))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(training.optimizer, 0.5)
    seen = rates_used(training.optimizer)
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url, mode="observe")
    training.step()
    stub.wait_for(lambda: stub.runs)
    stub.change(lr_scale=0.25)
    while agent.applied_revision == 0:
        training.step()
    before = len(seen)
    group = training.optimizer.param_groups[0]
    own = group["lr"]
    training.step()
    assert group["lr"] is own
    assert seen[before] == pytest.approx(0.025)
    scheduler.step()
    assert float(group["lr"]) == pytest.approx(0.05)
    training.step()
    assert seen[-1] == pytest.approx(0.0125)
    agent.close()
    assert stub.run.column("learning_rate")[-2:] == pytest.approx([0.1, 0.05])


def test_lr_scale_does_not_accumulate_when_a_step_raises(training: Training, stub: StubServer) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    stub.wait_for(lambda: stub.runs)
    stub.change(lr_scale=0.5)
    while agent.applied_revision == 0:
        training.step()

    def broken() -> float:
        raise RuntimeError("the data ran out")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="ran out"):
            training.optimizer.step(broken)
    training.step()
    assert training.optimizer.param_groups[0]["lr"] == 0.01
    assert agent.counters.errors == 0
    agent.close()


def test_an_optimizer_with_moments_is_observed_first(training: Training, stub: StubServer) -> None:
    for _ in range(3):
        training.step()
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url, observe_steps=None)
    for _ in range(102):
        training.step()
    agent.close()
    changed = [
        not math.isclose(raw, stabilized, rel_tol=1e-6)
        for raw, stabilized in zip(stub.run.column("raw_norm"), stub.run.column("stabilized_norm"), strict=True)
    ]
    assert changed[:100] == [False] * 100
    assert changed[101]
    assert agent.settings.mode is steadynorm.Mode.STABILIZE


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.Adagrad, torch.optim.SGD])
def test_a_fresh_optimizer_is_stabilized_at_once(make_training: type[Training], make: type[torch.optim.AdamW]) -> None:
    training = make_training(make=make)  # Adagrad makes its state at birth
    agent = steadynorm.attach(training.model, training.optimizer)
    training.step()
    assert {round(row["stabilized_norm"], 5) for row in agent.statistics().values()} == {1.0}
    agent.close()


def test_observe_steps_counts_from_attach(training: Training) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, observe_steps=2)
    scales = []
    for _ in range(3):
        training.step()
        scales.append(agent.statistics()["0.weight"]["scale"])
    assert scales[:2] == [1.0, 1.0]
    assert scales[2] != 1.0
    agent.close()


def test_after_close_the_optimizer_is_as_before(make_training: type[Training]) -> None:
    plain, closed = make_training(), make_training()
    steadynorm.attach(closed.model, closed.optimizer).close()
    for _ in range(3):
        plain.step()
        closed.step()
    assert all(torch.equal(a, b) for a, b in zip(plain.weights(), closed.weights(), strict=True))
    again = steadynorm.attach(closed.model, closed.optimizer)
    again.close()
    again.close()


def test_nothing_is_kept_alive_when_the_training_code_drops_everything(
    make_training: type[Training], stub: StubServer, until: Callable[[Callable[[], object]], None]
) -> None:
    training = make_training()
    steadynorm.attach(training.model, training.optimizer, server=stub.url)  # not kept: the optimizer holds it
    training.step()
    training.step()
    stub.wait_for(lambda: stub.runs)
    model = weakref.ref(training.model)
    del training

    def gone() -> bool:
        gc.collect()  # does nothing while another thread collects
        return model() is None

    until(gone)
    stub.wait_for(lambda: stub.run.finish)  # its threads end by themselves
    assert stub.run.steps == [1, 2]
