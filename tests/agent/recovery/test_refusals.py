"""What is refused is not made up for later, advice confirms nothing of a fault, and an error leaves no half."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from tests.support.agent import rates_used
from tests.support.recovery import Loop

import steadynorm
from steadynorm.mailbox import DesiredAtStart
from steadynorm_contract.settings import RecoveryMode, Settings, merge
from steadynorm_contract.telemetry import Desired, RevisionOutcome

FAULT = dict.fromkeys(range(36, 39), 1e4)


def put(agent: steadynorm.Agent, revision: int, settings: Settings, kind: type[Desired] = Desired) -> None:
    agent._mailbox.put(kind(revision, settings))


def heard(loop: Loop) -> list[tuple[int, int]]:
    """Rollbacks from now on."""
    events: list[tuple[int, int]] = []
    loop.agent.on_rollback(lambda event: events.append((event.from_step, event.to_step)))
    return events


def outcomes(agent: steadynorm.Agent) -> list[tuple[int, RevisionOutcome]]:
    return [(report.revision, report.outcome) for report in agent._mailbox.reports(100)]


def keep_reports(agent: steadynorm.Agent) -> None:
    agent._mailbox._discard_reports = False


def test_a_refused_rollback_is_not_carried_out_by_a_later_change_and_blocks_none() -> None:
    loop = Loop(detectors=[])
    keep_reports(loop.agent)
    events = heard(loop)
    loop.train(5)
    asked = replace(loop.agent.settings, rollback_generation=1)
    put(loop.agent, 1, asked)
    loop.train(1)
    assert outcomes(loop.agent) == [(1, RevisionOutcome.REJECTED)]
    put(loop.agent, 2, replace(asked, lr_scale=0.9))  # too early still
    loop.train(40)
    put(loop.agent, 3, replace(asked, lr_scale=0.8))
    loop.train(2)
    assert outcomes(loop.agent) == [(2, RevisionOutcome.APPLIED), (3, RevisionOutcome.APPLIED)]
    assert (events, loop.agent.settings.lr_scale) == ([], 0.8)
    # One that comes with a pause does not keep the pause from being applied.
    put(loop.agent, 4, replace(loop.agent.settings, rollback_generation=2, rollback_to=33, lr_scale=0.7))
    loop.train(2)
    assert outcomes(loop.agent) == [(4, RevisionOutcome.APPLIED)]
    assert (events, loop.agent.settings.lr_scale) == ([], 0.7)
    put(loop.agent, 5, replace(loop.agent.settings, rollback_generation=3, rollback_to=None))
    loop.train(2)
    assert len(events) == 1


def test_rollbacks_of_an_earlier_process_are_not_repeated_as_a_run_resumes() -> None:
    loop = Loop(detectors=[])
    events = heard(loop)
    loop.train(40)
    resumed = replace(loop.agent.settings, rollback_generation=3, lr_scale=0.5)
    put(loop.agent, 1, resumed, DesiredAtStart)
    loop.train(2)
    assert (events, loop.agent.settings.lr_scale, loop.agent.settings.rollback_generation) == ([], 0.5, 3)
    loop.agent._mailbox._seen_revision = 0  # what a registration brings is marked, once
    for revision, kind in ((7, DesiredAtStart), (8, Desired)):
        loop.agent._mailbox.reset(Desired(revision, resumed), registered_revision=0)
        assert type(loop.agent._mailbox.take()) is kind


def test_an_agent_without_snapshots_applies_all_but_what_is_asked_of_recovery(make_training: Any) -> None:
    training = make_training()
    agent = steadynorm.attach(training.model, training.optimizer, server="")
    keep_reports(agent)

    def step() -> None:
        training.model(torch.ones(1, 6)).sum().backward()
        training.optimizer.step()

    put(agent, 1, replace(agent.settings, recovery=RecoveryMode.ACT))
    step()
    put(agent, 2, replace(agent.settings, recovery=RecoveryMode.ACT, rollback_generation=1, lr_scale=0.5))
    step()
    put(agent, 3, replace(agent.settings, recovery=RecoveryMode.ACT, stop=True))
    step()
    assert outcomes(agent) == [
        (1, RevisionOutcome.REJECTED),
        (2, RevisionOutcome.APPLIED),
        (3, RevisionOutcome.APPLIED),
    ]
    assert (agent.settings.lr_scale, agent.settings.stop, agent.settings.recovery) == (0.5, True, RecoveryMode.OFF)


def test_a_step_to_go_back_to_is_meant_for_the_rollback_that_it_came_with() -> None:
    first = merge(Settings(), {"rollback_generation": 1, "rollback_to": 300})
    assert first.rollback_to == 300
    assert merge(first, {"lr_scale": 0.5}).rollback_to == 300
    assert merge(first, {"rollback_generation": 2}).rollback_to is None
    assert merge(first, {"rollback_generation": 2, "rollback_to": 300}).rollback_to == 300


def test_an_order_is_cancelled_by_off_and_a_second_request_is_refused_while_it_waits() -> None:
    loop = Loop(detectors=[])
    events = heard(loop)
    loop.train(35)
    control: Any = loop.agent._recovery
    asked = replace(loop.agent.settings, rollback_generation=1)
    control.settings_changed(loop.agent.settings, asked)
    assert "under way already" in control.refusal(asked, replace(asked, rollback_generation=2))
    put(loop.agent, 1, replace(asked, recovery=RecoveryMode.OFF))
    loop.train(3)
    assert (events, loop.agent.counters.errors, control._order) == ([], 0, None)


def test_an_order_is_carried_out_after_an_error_once_and_the_rate_comes_back() -> None:
    loop = Loop()
    events = heard(loop)
    rates = rates_used(loop.optimizers[0])
    control: Any = loop.agent._recovery

    def fail() -> None:
        if loop.taken == 38:  # the order came before this step; gradients are stabilized after `before_step`
            control._boundary.begin_step = begin

    def begin() -> None:
        raise RuntimeError("injected")

    loop.before = fail
    loop.bad = FAULT
    loop.train(37)
    saved = loop.agent.snapshots
    loop.train(3)
    assert loop.agent.counters.errors == 1
    assert len(events) == 1
    assert events[0][1] == saved[-1]
    loop.train(20)
    assert len(events) == 1
    assert (rates[37], rates[38], rates[-1]) == (0.01, 0.005, 0.01)


def test_advice_confirms_nothing_of_the_fault_and_goes_on_when_it_is_over() -> None:
    loop = Loop(mode="advise")
    loop.train(35)
    whole = copy.deepcopy((loop.model.state_dict(), loop.optimizers[0].state_dict()))
    loop.bad = dict.fromkeys(range(36, 77), 1e4)
    loop.train(41)
    assert loop.agent.snapshots == (20, 30)
    loop.model.load_state_dict(whole[0])
    loop.optimizers[0].load_state_dict(whole[1])
    loop.train(34)
    assert min(loop.agent.snapshots) > 76


def test_a_part_that_cannot_go_back_keeps_no_other_from_it(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def state_dict(self) -> dict[str, int]:
            return {"x": 1}

        def load_state_dict(self, state: object) -> None:
            raise ValueError("not today")

    average = torch.nn.Linear(2, 2)
    loop = Loop(extra={"broken": Broken(), "average": average})
    loop.bad = FAULT
    loop.train(30)
    weight = loop.model[4].weight.detach().clone()
    loop.train(7)
    with torch.no_grad():
        average.weight.fill_(7.0)
    loop.train(1)
    assert torch.equal(loop.model[4].weight, weight)
    assert float(average.weight.detach().max()) < 7
    assert loop.agent._boundary.held_lr == 0.5
    assert "Not brought back, as it raised an error: extra broken (ValueError: not today)" in caplog.text
    assert loop.agent.counters.errors == 0


def test_what_operators_chose_for_recovery_outlives_a_restart() -> None:
    loop = Loop()
    loop.train(3)
    put(loop.agent, 7, replace(loop.agent.settings, recovery=RecoveryMode.OFF))
    loop.train(2)
    state = loop.agent.state_dict()
    again = Loop()
    again.agent.load_state_dict(state)
    assert (again.agent.settings.recovery, again.agent._boundary.applied[0]) == (RecoveryMode.OFF, 7)
    newly = Loop()
    newly.agent.load_state_dict({**state, "keeps_snapshots": False})  # of a job that was attached without recovery
    assert newly.agent.settings.recovery is RecoveryMode.ACT


def test_an_alarm_without_a_snapshot_costs_no_budget_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(every_steps=100, detectors=["loss is nan for 2 steps"])
    loop.bad = dict.fromkeys(range(1, 20), math.nan)
    loop.train(12)
    assert not loop.agent.should_stop
    assert caplog.text.count("cannot roll back, no snapshot is good yet") == 1
    status = loop.agent._mailbox.recovery
    assert status is not None
    assert status.budget_left == 3


def test_a_loss_that_is_logged_now_and_then_confirms_as_late() -> None:
    loop = Loop(confirm_steps=None, detectors=["loss > 20 x median of 20 for 3 steps"])
    loop.log_every = 10
    loop.train(39)
    assert not loop.agent.snapshots
    loop.train(10)
    assert list(loop.agent.snapshots) == [10]  # three values later
    loop.log_every = 1
    loop.train(20)
    assert loop.agent.snapshots[-1] == 60


def test_steps_from_before_a_checkpoint_was_loaded_raise_no_alarm_after_it() -> None:
    loop = Loop(detectors=["loss is nan for 2 steps"])
    loop.train(25)
    state, weights = loop.agent.state_dict(), copy.deepcopy(loop.model.state_dict())
    loop.bad = dict.fromkeys(range(26, 30), math.nan)
    watch: Any = loop.agent._watch
    look, watch.look = watch.look, lambda **_: None  # nothing is read until the checkpoint is loaded
    loop.train(3)
    loop.agent.load_state_dict(state)
    loop.model.load_state_dict(weights)
    loop.optimizers[0].state.clear()
    watch.look = look
    loop.bad = {}
    loop.train(2)
    control: Any = loop.agent._recovery
    assert control._watch.pending is None
    assert not control._told_without


def test_a_weight_that_was_frozen_since_goes_back_too() -> None:
    loop = Loop()
    loop.bad = FAULT
    loop.train(30)
    weight = loop.model[0].weight.detach().clone()
    loop.train(4)
    loop.model[0].weight.requires_grad_(False)
    loop.train(4)
    assert torch.equal(loop.model[0].weight, weight)


def test_a_closed_agent_keeps_neither_memory_nor_what_it_was_given() -> None:
    loop = Loop()
    loop.train(30)
    scheduler: Any = torch.optim.lr_scheduler.StepLR(loop.optimizers[0], 10)
    other = Loop(scheduler=None, scaler=torch.amp.GradScaler("cpu"))
    control: Any = other.agent._recovery
    other.train(30)
    scaler = weakref.ref(next(iter(control._contents._others.values())))
    put(other.agent, 1, replace(other.agent.settings, recovery=RecoveryMode.OFF))
    other.train(2)
    assert not any(buffers._tensors for buffers in control.snapshots._free)
    other.agent.close()
    gc.collect()
    assert scaler() is None
    loop.agent.close()
    assert not any(buffers._tensors for buffers in loop.agent._recovery.snapshots._free)  # type: ignore[union-attr]
    del scheduler


def test_nothing_is_read_or_restored_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    events = heard(loop)
    loop.bad = FAULT
    loop.train(37)
    control: Any = loop.agent._recovery
    loop.before = lambda: monkeypatch.setattr(control, "_is_captured", lambda: True)
    control.receive(control.news())
    loop.train(1)
    assert (events, control._order is not None) == ([], True)
    loop.before = lambda: monkeypatch.setattr(control, "_is_captured", lambda: False)
    loop.train(1)
    assert events == [(39, 30)]


def test_steps_are_told_by_the_numbers_that_the_loop_gave_them_then(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    loop.number = lambda step: 1000 + step if step <= 34 else 5000 + step  # it skipped some of its own
    loop.bad = FAULT
    loop.train(40)
    assert "rolled back from 5038 to 1030: loss" in caplog.text
    status = loop.agent._mailbox.recovery
    assert status is not None
    assert status.snapshots == [1020, 1030]
    events, control = heard(loop), loop.agent._recovery
    asked = replace(loop.agent.settings, rollback_generation=1, rollback_to=1030)
    put(loop.agent, 1, asked)
    loop.train(2)
    assert [go for _, go in events] == [30]
    asked = replace(asked, rollback_generation=2, rollback_to=30)
    assert control is not None
    assert "got 30. Kept are 1020, 1030." in control.refusal(loop.agent.settings, asked)


def test_a_lasting_change_of_the_data_is_learned_and_no_fault_for_good() -> None:
    condition = "loss > mean + 10 sigma of 40 for 5 steps"
    moved, broken = (Loop(every_steps=30, held_steps=5, confirm_steps=5, detectors=[condition]) for _ in range(2))
    for loop, level in ((moved, 2.3), (broken, 9.0)):
        noise = torch.Generator().manual_seed(1)
        loop.logged = lambda step, level=level, noise=noise: (
            (2.0 if step < 100 else level) + 0.01 * float(torch.randn((), generator=noise))
        )
        loop.events = heard(loop)
        loop.train(100)
        while loop.taken < 240 and not loop.agent.should_stop:
            loop.train(1)
    assert (moved.agent.should_stop, 1 <= len(moved.events) <= 2) == (False, True)
    assert broken.agent.should_stop  # factors, not tens of percent: that stays a fault
    assert len(broken.events) == 3


def test_a_detector_on_a_mistyped_name_is_told_at_once_and_says_that_it_has_no_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop(detectors=["eval/los > 3", "loss > 20 x median of 20"])
    loop.train(2)
    loop.own = {"other": 1.0}
    loop.train(2)
    assert "eval/los" not in caplog.text
    loop.own = {"eval/loss": 1.0}
    loop.train(2)
    said = "the detector 'eval/los > 3' may never be met: no scalar 'eval/los' in this run; did you mean 'eval/loss'?"
    assert caplog.text.count(said) == 1
    control: Any = loop.agent._recovery
    control._report()
    statuses = [(each.condition, each.has_value) for each in control._mailbox.recovery.detectors]
    assert statuses == [("eval/los > 3", False), ("loss > 20 x median of 20", True)]
