"""Detectors on scalars that come after their step was looked at: logged late, or reduced over ranks first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.recovery import Loop

if TYPE_CHECKING:
    from tests.support.agent import StubServer

DETECTORS = ["eval > 20 x median of 20 for 2 steps"]


def evaluated(loop: Loop, steps: int, value: float) -> None:
    """Train, and log an evaluation of each step after the agent has looked at the step."""
    for _ in range(steps):
        loop.train(1)
        loop.agent.log(eval=value)
        loop.agent.flush()


@pytest.mark.parametrize("served", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("first", [1, 1000])
def test_a_detector_sees_them_under_their_steps(served: bool, first: int, stub: StubServer) -> None:
    loop = Loop(detectors=DETECTORS, server=stub.url if served else "")
    loop.number = lambda step: step - 1 + first  # the loop's own
    loop.agent.on_rollback(lambda event: loop.events.append((event.from_step, event.to_step)))
    evaluated(loop, 35, 1.0)
    evaluated(loop, 2, 100.0)
    assert not loop.events
    loop.train(1)
    assert loop.events == [(38, 30)]
    assert loop.agent.step == 38
    loop.agent.log(eval=100.0)  # still of the weights that were given up
    loop.agent.flush()
    evaluated(loop, 20, 1.0)
    assert loop.events == [(38, 30)]
    loop.agent.close()


def test_what_a_spiking_step_logs_late_is_not_learned() -> None:
    loop = Loop(detectors=["eval > 20 x median of 20 for 2 steps"])
    loop.agent.on_rollback(lambda event: loop.events.append((event.from_step, event.to_step)))
    evaluated(loop, 20, 1.0)
    loop.bad = dict.fromkeys(range(21, 60), 1e4)
    for _ in range(20):  # spikes: else 10 would be usual by the end
        loop.bad[loop.taken + 1] = 10.0 ** (4 + loop.taken - 20)
        evaluated(loop, 1, 10.0)
    loop.bad = {}
    evaluated(loop, 2, 100.0)
    loop.train(1)
    assert loop.events == [(43, 30)]
