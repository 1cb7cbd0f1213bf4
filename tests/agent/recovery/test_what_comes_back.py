"""Modules and buffers that are unlike the usual ones: brought back all the same, or told of."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from tests.support.recovery import Loop, equal

import steadynorm
from steadynorm.recovery.contents import Contents


class Handing(torch.nn.Module):
    """An average whose state_dict() hands out copies, as some do, and that has state of its own beside tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(2))
        self.average: torch.Tensor
        self.updates = 0

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        for name in state:
            state[name] = copy.deepcopy(state[name])
        return state

    def get_extra_state(self) -> Any:
        return {"updates": self.updates}

    def set_extra_state(self, state: Any) -> None:
        self.updates = state["updates"]


def test_a_module_whose_state_is_a_copy_goes_back_too() -> None:
    extra = Handing()
    loop = Loop(extra={"average": extra})
    counted = itertools.count(1)

    def update() -> None:
        extra.updates = next(counted)
        extra.average.fill_(extra.updates)

    loop.before = update
    loop.bad = dict.fromkeys(range(36, 38), 1e4)
    seen: list[Any] = []
    loop.agent.on_rollback(lambda event: seen.append((event.to_step, extra.updates, extra.average.tolist())))
    loop.train(40)
    assert seen == [(30, 31, [31.0, 31.0])]  # it was taken as step 31 began


def test_a_buffer_that_has_another_shape_by_now_is_told(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    loop.model.register_buffer("seen", torch.zeros(1))
    loop.train(34)
    loop.model.seen = torch.zeros(3)
    loop.bad = dict.fromkeys(range(36, 38), 1e4)
    loop.train(6)
    assert "Not brought back, as it raised an error: buffers (ValueError: seen has another shape" in caplog.text
    assert float(loop.model[1].running_mean.abs().max()) < 10  # the others are back


@pytest.mark.parametrize("part", ["_restore_weights", "_restore_optimizer", "_restore_statistics"])
def test_an_interrupt_while_a_run_goes_back_is_raised_once_all_of_it_is_back(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, loop = Loop(), Loop()
    interrupts = [KeyboardInterrupt()]
    events: list[steadynorm.RollbackEvent] = []
    loop.agent.on_rollback(events.append)
    restore = getattr(Contents, part)

    def interrupted(self: Contents, *args: Any) -> None:
        if interrupts and self is loop.agent._recovery._contents:  # type: ignore[union-attr]  # it has one
            raise interrupts.pop()
        restore(self, *args)

    monkeypatch.setattr(Contents, part, interrupted)
    for each in (undisturbed, loop):
        each.bad = dict.fromkeys(range(36, 38), 1e4)
        each.train(37)
    undisturbed.train(1)
    with pytest.raises(KeyboardInterrupt):
        loop.train(1)
    assert interrupts == []
    assert equal(loop.state(), undisturbed.state())
    assert [(event.from_step, event.to_step) for event in events] == [(38, 30)]
