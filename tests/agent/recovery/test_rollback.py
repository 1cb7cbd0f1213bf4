"""A run that breaks goes back to a snapshot, in place, and goes on; what cannot be done is refused with what to do."""

from __future__ import annotations

import copy
import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.support.agent import rates_used
from tests.support.recovery import OPTIONS, Loop, equal

import steadynorm
from steadynorm.recovery.contents import Contents
from steadynorm.transport import publisher

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.agent import StubServer


@pytest.mark.parametrize("kind", ["one optimizer", "two optimizers", "compiled"])
def test_a_fault_is_undone_in_place_and_the_run_goes_on_with_its_next_step(kind: str) -> None:
    loop = Loop(optimizers=2 if kind == "two optimizers" else 1, compiled=kind == "compiled")
    loop.train(29)
    loop.train(1)
    saved, places = loop.state(), [each.data_ptr() for each in loop.model.parameters()]
    events: list[steadynorm.RollbackEvent] = []
    after: list[list[torch.Tensor]] = []

    @loop.agent.on_rollback
    def _(event: steadynorm.RollbackEvent) -> None:
        events.append(event)

    loop.bad = dict.fromkeys(range(36, 39), 1e4)
    loop.train(7)
    assert loop.agent.snapshots == (20, 30)
    assert not events
    loop.train(1)  # the decision is of step 37, and is carried out after 38
    (event,) = events
    assert (event.from_step, event.to_step) == (38, 30)
    assert event.reason.startswith("loss > 20 x median of 20 for 2 steps (loss ")
    assert event.batch_ids == tuple(f"batch{step}" for step in range(31, 38))
    assert (loop.agent.step, loop.agent.snapshots) == (38, (20, 30))
    after.append(loop.state())
    differing = [at for at, (one, other) in enumerate(zip(saved, after[0], strict=True)) if not torch.equal(one, other)]
    buffers = {len(list(loop.model.parameters())) + at for at in range(3)}  # taken before step 31, after its forward
    assert set(differing) <= buffers
    assert [each.data_ptr() for each in loop.model.parameters()] == places
    loop.train(30)
    assert len(events) == 1
    assert loop.losses[-1] < 2 * loop.losses[34]


def test_nothing_is_done_in_a_clean_run_and_its_weights_are_those_without_recovery() -> None:
    with_recovery, without = Loop(), Loop(mode="off")
    with_recovery.train(60)
    without.train(60)
    assert with_recovery.agent.snapshots == (40, 50)
    assert without.agent.snapshots == ()
    assert equal(with_recovery.state(), without.state())


def test_the_rate_is_held_back_for_some_steps_and_comes_back_by_itself() -> None:
    loop = Loop(held_lr=0.25)
    rates = rates_used(loop.optimizers[0])
    loop.bad = {36: 1e4, 37: 1e4}
    loop.train(60)
    assert rates == [0.01] * 38 + [0.0025] * 10 + [0.01] * 12


@pytest.mark.parametrize(("over", "again"), [(42, 47), (40, 45)])  # 40: one step after it, and an alarm needs two
def test_a_fault_that_outlasts_its_rollback_is_undone_once_more_and_costs_one_of_the_budget(
    over: int, again: int
) -> None:
    beside = "loss > 20 x median of 20, 9 times in 30 steps"  # counts for longer than the fault lasts
    conditions = ["loss > 20 x median of 20 for 2 steps", beside][: 2 if over == 40 else 1]
    loop = Loop(detectors=conditions)
    events: list[steadynorm.RollbackEvent] = []
    loop.agent.on_rollback(events.append)
    loop.bad = dict.fromkeys(range(36, over), 1e4)
    loop.train(80)
    assert [(event.from_step, event.to_step) for event in events] == [(38, 30), (again, 30)]
    status = loop.agent._mailbox.recovery
    assert status is not None
    assert status.budget_left == 2
    assert loop.losses[-1] < 2 * loop.losses[34]


def test_the_harm_that_the_rest_of_a_fault_did_is_undone_by_the_same_rollback() -> None:
    loop = Loop(detectors=["loss > 20 x median of 20 for 2 steps", "loss > 4 x median of 20, 4 times in 8 steps"])
    events: list[steadynorm.RollbackEvent] = []
    loop.agent.on_rollback(events.append)
    harmed = {39: 1e4, **dict.fromkeys(range(40, 80), 5.0)}  # 39: one step after the rollback
    loop.logged = lambda step: 1e4 if 36 <= step < 39 else harmed.get(step, 1.0) if len(events) < 2 else 1.0
    loop.train(80)
    assert [(event.from_step, event.to_step) for event in events] == [(38, 30), (45, 30)]
    assert events[1].reason.startswith("the rest of the same fault (loss 1e+04 ")
    status = loop.agent._mailbox.recovery
    assert status is not None
    assert status.budget_left == 2


def test_a_fault_that_stays_takes_an_older_snapshot_a_smaller_rate_and_then_ends() -> None:
    loop = Loop(max_rollbacks=3)
    events: list[steadynorm.RollbackEvent] = []
    loop.agent.on_rollback(events.append)
    loop.bad = dict.fromkeys(range(36, 200), 1e4)
    steps = 0
    while not loop.agent.should_stop and steps < 150:
        loop.train(1)
        steps += 1
    assert [event.to_step for event in events] == [30, 20, 20]
    assert loop.agent.should_stop
    assert loop.agent.settings.stop
    loop.train(20)
    assert len(events) == 3


def test_advice_is_told_and_nothing_is_changed(caplog: pytest.LogCaptureFixture) -> None:
    loop, plain = Loop(mode="advise"), Loop(mode="off")
    loop.bad = plain.bad = dict.fromkeys(range(36, 39), 1e4)
    with caplog.at_level(logging.WARNING, "steadynorm"):
        loop.train(60)
    plain.train(60)
    told = [record.getMessage() for record in caplog.records if "would have rolled back" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("would have rolled back from 37 to 30: loss > 20 x median")
    assert equal(loop.state(), plain.state())


def test_weights_that_are_not_finite_in_a_snapshot_are_an_alarm() -> None:
    loop = Loop(detectors=[], confirm_steps=4)
    loop.train(35)
    with torch.no_grad():
        loop.model[4].bias.fill_(math.inf)
    loop.train(10)
    assert all(bool(each.isfinite().all()) for each in loop.model.parameters())
    assert loop.agent.snapshots == (20, 30)


def test_a_state_that_is_lost_and_a_weight_that_was_exchanged_come_back() -> None:
    loop = Loop()
    loop.train(36)
    optimizer = loop.optimizers[0]
    optimizer.state.clear()
    optimizer.param_groups[0]["lr"] = 1.0  # a typing error
    loop.model[4].weight.data = torch.full_like(loop.model[4].weight, 1e6)
    loop.train(3)
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert float(loop.model[4].weight.detach().abs().max()) < 10
    loop.train(3)
    assert all(len(state) == 3 and state["step"] >= 30 for state in optimizer.state.values())


def test_parameters_that_came_later_stay_and_begin_anew() -> None:
    loop = Loop()
    loop.train(34)
    late = torch.nn.Parameter(torch.ones(3))
    loop.optimizers[0].add_param_group({"params": [late], "lr": 0.5})
    loop.bad = dict.fromkeys(range(36, 38), 1e4)
    loop.before = lambda: setattr(late, "grad", torch.ones(3))
    loop.train(4)
    assert loop.agent.step == 38
    assert late not in loop.optimizers[0].state  # of steps that are gone
    assert loop.optimizers[0].param_groups[1]["lr"] == 0.5
    loop.train(30)
    assert not loop.agent.callback_errors
    assert loop.agent.counters.errors == 0


def test_tied_weights_extras_a_scheduler_and_a_scaler_go_back_together() -> None:
    torch.manual_seed(0)
    model: Any = torch.nn.ModuleList([torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)])
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.9)
    average = copy.deepcopy(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    recovery = steadynorm.Recovery(**OPTIONS, scheduler=scheduler, scaler=scaler, extra={"average": average})
    agent = steadynorm.attach(model, optimizer, server="", mode="observe", recovery=recovery)
    kept: dict[str, Any] = {}
    for step in range(1, 40):
        optimizer.zero_grad()
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step)) * (1e3 if step in (36, 37) else 1)
        loss = model[1](model[0](inputs)).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        if step == 31:  # the snapshot of step 30 was taken as this step began
            kept["lr"] = optimizer.param_groups[0]["lr"]
        if step == 30:
            kept["weight"] = model[0].weight.detach().clone()
        if step == 38:
            assert torch.equal(model[0].weight, kept["weight"])
            assert model[1].weight is model[0].weight
            assert torch.equal(average[0].weight, kept["average"])
            assert (scheduler.last_epoch, optimizer.param_groups[0]["lr"]) == (30, kept["lr"])
        scaler.update()
        scheduler.step()
        with torch.no_grad():
            average[0].weight.lerp_(model[0].weight, 0.1)
        if step == 30:
            kept["average"] = average[0].weight.detach().clone()
        agent.log(loss=loss)
        agent.flush()
    assert agent.snapshots == (20, 30)


def test_a_snapshot_does_not_ask_a_scaler_for_what_waits_for_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    loop = Loop(scaler=scaler, detectors=[])

    def waits() -> Any:
        raise AssertionError("it waits")

    for name in ("state_dict", "get_scale"):
        monkeypatch.setattr(scaler, name, waits)
    loop.train(35)
    assert (loop.agent.snapshots, loop.agent.counters.errors) == ((20, 30), 0)
    monkeypatch.undo()
    scaler.update(0.5)
    control: Any = loop.agent._recovery
    assert control.snapshots.restore(30) == []
    assert scaler.get_scale() == 8.0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"every_steps": 0}, "every_steps must be at least 1: got 0"),
        ({"keep": 1.5}, "keep must be a whole number: got 1.5"),
        ({"mode": "on"}, "mode must be one of off, advise, act: got 'on'"),
        ({"held_lr": 2.0}, "held_lr must be above 0 and at most 1: got 2.0"),
        ({"extra": {"ema": object()}}, r"ema must have state_dict\(\) and load_state_dict\(\): got object"),
        ({"scaler": 3}, r"scaler must have state_dict\(\)"),
        ({"detectors": ["loss jumps"]}, "a condition must be SCALAR < VALUE"),
        ({"detectors": ["norm_mean > 3"]}, "detectors: scalar must be one of"),
        ({"when_spent": "panic"}, "when_spent must be pause or stop"),
    ],
)
def test_a_recovery_that_cannot_work_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        steadynorm.Recovery(**options)


def test_what_does_not_belong_to_the_training_is_refused(make_training: Any) -> None:
    mine, other = make_training(), make_training()
    scheduler = torch.optim.lr_scheduler.StepLR(other.optimizer, 1)
    with pytest.raises(ValueError, match="scheduler must be one of an optimizer that attach"):
        steadynorm.attach(mine.model, mine.optimizer, server="", recovery=steadynorm.Recovery(scheduler=scheduler))
    with pytest.raises(TypeError, match=r"recovery must be a steadynorm\.Recovery: got bool"):
        steadynorm.attach(mine.model, mine.optimizer, server="", recovery=True)  # type: ignore[arg-type]
    agent = steadynorm.attach(mine.model, mine.optimizer, server="")
    with pytest.raises(RuntimeError, match=r"on_rollback\(\) needs snapshots: pass recovery="):
        agent.on_rollback(print)


def test_a_restore_that_cannot_be_done_changes_nothing_and_turns_the_agent_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop, plain = Loop(), Loop(mode="off")
    loop.bad = plain.bad = dict.fromkeys(range(36, 39), 1e4)
    monkeypatch.setattr(Contents, "misfit", lambda self, saved: "it is on fire")
    loop.train(45)
    plain.train(45)
    assert "cannot be restored: it is on fire. Nothing was changed" in caplog.text
    assert loop.agent.counters.errors == 1
    weights = [each.detach() for each in loop.model.parameters()]
    assert equal(weights, [each.detach() for each in plain.model.parameters()])


def test_a_server_that_accepts_and_never_answers_keeps_no_detector_waiting(
    stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "READ_TIMEOUT_S", 600.0)
    hangs, held, ends = threading.Event(), threading.Event(), threading.Event()

    def hang(method: str, path: str, body: bytes) -> None:
        if hangs.is_set() and path.endswith("/telemetry"):
            held.set()
            ends.wait(600)

    def train_until(done: Callable[[], object]) -> None:
        ends_at = time.monotonic() + 60
        while not done():
            assert time.monotonic() < ends_at
            loop.train(1)
            time.sleep(0.01)

    stub.fault = hang
    loop = Loop(server=stub.url)
    events: list[steadynorm.RollbackEvent] = []
    loop.agent.on_rollback(events.append)
    loop.train(35)
    loop.flushes = False
    hangs.set()
    try:
        train_until(held.is_set)
        loop.bad = dict.fromkeys(range(loop.taken + 1, 100_000), 1e4)
        train_until(lambda: events)
        assert events[0].reason.startswith("loss > 20 x median of 20 for 2 steps")
    finally:
        ends.set()


def test_an_operator_rolls_back_and_is_refused_what_is_impossible(stub: StubServer) -> None:
    loop = Loop(server=stub.url, mode="advise", detectors=[])
    loop.train(5)

    def ask(**changes: object) -> Any:
        revision = stub.change(**changes)
        loop.agent.flush()
        while not any(report.revision == revision for report in stub.run.reports):
            loop.train(1)
        return next(report for report in stub.run.reports if report.revision == revision)

    refused = ask(rollback_generation=1)
    assert refused.outcome == "rejected"
    assert "got none yet at step" in refused.reason
    assert "will be good at about step 14" in refused.reason
    loop.train(40 - loop.agent.step)
    refused = ask(rollback_generation=2, rollback_to=25)
    kept = ", ".join(map(str, loop.agent.snapshots))
    assert refused.reason.endswith(f"got 25. Kept are {kept}.")
    events: list[steadynorm.RollbackEvent] = []
    loop.agent.on_rollback(events.append)
    oldest = loop.agent.snapshots[0]
    done = ask(rollback_generation=3, rollback_to=oldest)
    assert (done.outcome, events[0].to_step) == ("applied", oldest)
    assert events[0].reason == "requested, rollback_generation 3"
    loop.agent.flush()
    (note,) = [note for batch in stub.run.batches for note in batch.notes if note.kind == "rollback"]
    assert (note.step, note.value) == (events[0].from_step, oldest)
    assert ask(recovery="off", rollback_generation=3).outcome == "applied"
    assert loop.agent.snapshots == ()
    assert "a rollback needs recovery=act" in ask(rollback_generation=4).reason
