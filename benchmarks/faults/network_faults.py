"""The network between agents and server fails for a while. Beside them others, whose network does not, go on."""

from __future__ import annotations

import asyncio
import time
from typing import get_args

from fault_stack import AGENT, Outcome, compare, count_errors, folder, server
from faulty_network import Fault, FaultyNetwork
from steady_agents import Fleet

__all__ = ["FAULTS", "network"]

FAULTS: dict[str, Fault] = {kind.replace(" ", "-"): kind for kind in get_args(Fault) if kind != "pass"}
_BACK_WITHIN_S = 45.0  # the longest wait of the backoff, and a time-out


async def network(name: str, agents: int, seconds: float) -> Outcome:
    """A third of the time well, a third with the fault, a third well again. Half of the agents are behind the fault."""
    outcome, third = Outcome(), seconds / 3
    with folder() as home, server(home) as running:
        async with FaultyNetwork([running.place]) as proxy:
            behind = Fleet(agents // 2, ("127.0.0.1", proxy.port), AGENT, "behind")
            beside = Fleet(agents - agents // 2, running.place, AGENT, "beside")
            for fleet in (behind, beside):
                fleet.start()
            began = time.monotonic()
            await asyncio.sleep(third)
            descriptors, memory = running.descriptors(), running.memory_mb()
            proxy.fault = FAULTS[name]
            await asyncio.sleep(third)
            during = {"descriptors": running.descriptors(), "memory_mb": round(running.memory_mb(), 1)}
            proxy.fault = "pass"
            healed = time.monotonic()
            await asyncio.sleep(third)
            unfinished = [*await behind.end(), *await beside.end()]
        failed, ended = began + third, time.monotonic()
        back_s = behind.all_heard_after(healed)
        outcome.figures = {
            "agents": agents, "seconds_of_fault": third, "errors_behind": behind.errors(),
            "errors_beside": beside.errors(), "beside_p99_ms_before": beside.p99_ms(began, failed),
            "beside_p99_ms_during": beside.p99_ms(failed, healed), "beside_p99_ms_after": beside.p99_ms(healed, ended),
            "all_back_after_s": back_s, "descriptors_before": descriptors, "memory_mb_before": round(memory, 1),
            **{f"{name}_during": value for name, value in during.items()},
        }  # fmt: skip
        outcome.require(not unfinished, f"{unfinished} did not come to their end")
        outcome.require(back_s < _BACK_WITHIN_S, f"not all were back within {_BACK_WITHIN_S:g} s")
        outcome.require(not beside.errors(), f"agents beside the fault met errors: {beside.errors()}")
        for fleet in (behind, beside):
            compare(outcome, fleet, running.client())
        count_errors(outcome, [running])
    return outcome
