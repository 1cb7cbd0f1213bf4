"""A GradScaler leaves steps out, which no hook of an optimizer sees: broken weights are brought back all the same."""

from __future__ import annotations

import copy
import gc
import logging
import math
import pickle
import weakref
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from tests.support.recovery import Scaled

import steadynorm
from steadynorm_contract.telemetry import Desired


def test_nan_weights_with_a_scaler_are_brought_back() -> None:
    loop = Scaled(every_steps=10)
    loop.train(35)
    loop.break_weights()
    assert loop.events == []
    loop.train(1)  # which the scaler leaves out
    assert loop.events == [(35, 30)]
    assert loop.reasons == ["weights are not finite, and the GradScaler left out 1 step in a row"]
    assert all(bool(each.isfinite().all()) for each in loop.model.parameters())
    assert loop.scaler.get_scale() == 4.0  # it had been halved
    loop.train(24)
    assert (loop.agent.step, len(loop.events), loop.agent.counters.errors) == (59, 1, 0)
    assert math.isfinite(loop.losses[-1])


def test_with_two_optimizers_and_two_agents_of_one_scaler_only_the_broken_one_goes_back() -> None:
    loop, model = Scaled(optimizers=2), torch.nn.Linear(2, 2)
    recovery = steadynorm.Recovery(mode="act", scaler=loop.scaler)
    follower = steadynorm.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), server="", recovery=recovery)
    loop.train(35)
    loop.break_weights()
    loop.train(1)
    assert [go for _, go in loop.events] == [30]
    assert follower._recovery is not None
    assert follower._recovery.skipped == 0
    follower.close()
    loop.train(3)
    assert loop.agent.step == 38


def test_batches_that_a_scaler_leaves_out_are_its_business_until_eight_in_a_row() -> None:
    loop = Scaled()
    loop.train(35)
    loop.bad = set(range(36, 43))
    loop.train(8)
    assert (loop.events, loop.agent.step) == ([], 36)
    loop.bad = set(range(44, 60))  # one fault: told once, and once more only after `every_steps`
    loop.train(17)
    assert loop.events == [(36, 30)]
    assert loop.reasons[0] == "the GradScaler left out 8 steps in a row"
    loop.train(5)
    assert (len(loop.events), loop.agent.step) == (1, 42)


def test_a_scaler_that_leaves_out_every_step_ends_in_a_stop() -> None:
    loop = Scaled()
    loop.bad = set(range(36, 1000))
    loop.train(35)
    loop.train_until(lambda: loop.agent.should_stop, at_most=60)
    assert len(loop.events) == 3
    assert loop.agent.should_stop


def test_a_change_of_settings_and_a_requested_rollback_reach_a_run_that_takes_no_steps() -> None:
    loop = Scaled(mode="advise")
    loop.train(35)
    loop.break_weights()
    loop.train(3)
    assert loop.events == []
    loop.agent._mailbox.put(Desired(1, replace(loop.agent.settings, rollback_generation=1, lr_scale=0.5)))
    loop.train(1)
    assert (loop.events, loop.agent.settings.lr_scale) == ([(35, 30)], 0.5)
    loop.train(5)
    assert loop.agent.step == 40


def test_advice_about_it_is_told_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    loop = Scaled(mode="advise")
    loop.train(35)
    loop.break_weights()
    with caplog.at_level(logging.WARNING, "steadynorm"):
        loop.train(15)
    told = [each for each in caplog.messages if "would have rolled back from 35 to 30: weights are not finite" in each]
    assert len(told) == 2  # at once, and ten steps later
    assert loop.agent.snapshots == (20, 30)


def test_the_scaler_is_left_as_it_was_can_be_copied_and_keeps_nothing_alive() -> None:
    loop = Scaled()
    loop.train(12)
    scaler: Any = loop.scaler
    for copied in (copy.deepcopy(scaler), pickle.loads(pickle.dumps(scaler))):
        assert copied.step.__func__ is torch.amp.GradScaler.step
        assert copied.step.__self__ is copied
    agent = weakref.ref(loop.agent)
    loop.agent.close()
    assert not {"step", "update"} & set(vars(scaler))
    del loop
    gc.collect()
    assert agent() is None


def test_a_scaler_that_is_off_and_one_of_another_kind_are_taken_as_they_are() -> None:
    for enabled in (False, True):
        loop = Scaled(enabled=enabled)
        assert ("step" in vars(loop.scaler)) is enabled
        loop.train(21)
        assert loop.agent.step == 21
