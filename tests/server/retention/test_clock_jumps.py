"""A clock that is set by a day: no run is removed for it, none is lost, and events are still sent."""

from __future__ import annotations

from typing import Any

import pytest

from steadynorm_server.retention import clock_watch
from steadynorm_server.retention.clock_watch import ClockWatch
from steadynorm_server.retention.policy import Limits
from steadynorm_server.retention.sweeper import sweep

DAY_S = 86_400.0


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough."""
    return empty_valkey


class Clocks:
    """One that can be set, and one that cannot."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 1_700_000_000.0, 50.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S, 61.0, -61.0])
def test_after_a_jump_ages_are_not_judged_for_ten_minutes(jump_s: float, caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    watch = ClockWatch(lambda: clocks.wall, lambda: clocks.monotonic)
    for _ in range(5):
        clocks.pass_(10.0)
        assert watch.is_steady()
    clocks.wall += jump_s
    seen = []
    for _ in range(62):
        seen.append(watch.is_steady())
        clocks.pass_(10.0)
    assert seen == [False] * 60 + [True] * 2
    (said,) = caplog.messages
    assert f"the clock was set by {jump_s:+.0f} s" in said


def test_a_clock_that_is_steered_is_steady() -> None:
    clocks = Clocks()
    watch = ClockWatch(lambda: clocks.wall, lambda: clocks.monotonic)
    for _ in range(100):
        clocks.wall += 30.0  # in each pass, as after a slow pass
        clocks.pass_(10.0)
        assert watch.is_steady()


@pytest.mark.usefixtures("without_sweeper")
@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
async def test_a_live_run_outlives_a_jump_of_a_day_and_goes_on(agent: Any, clock: Any, jump_s: float) -> None:
    state, limits = agent.client.app.state, Limits(keep_days=0.5)
    monotonic = 0.0
    watch = ClockWatch(clock, lambda: monotonic)
    await agent.send([1])
    clock.now += jump_s
    await sweep(state.repository, limits, expires=watch.is_steady())
    assert (await agent.get())["state"] in ("running", "stalled")
    await agent.send([2, 3])
    assert (await agent.change(0, {"gamma2": 0.9})).status_code == 200
    clock.now += clock_watch.REST_S
    monotonic += clock_watch.REST_S
    await agent.send([4])
    await sweep(state.repository, limits, expires=watch.is_steady())
    seen = await agent.get()
    assert (seen["state"], seen["step"], seen["counters"]["steps"]) == ("running", 4, 4)
    listed = (await agent.client.get("/runs")).json()["runs"]
    assert [run["state"] for run in listed] == ["running"]
