"""A server at work for a long time: the slope of its memory, and its descriptors."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter

from fault_stack import AGENT, Outcome, compare, count_errors, folder, server
from steady_agents import Fleet

from steadynorm_contract.client import Client, ClientError

__all__ = ["soak"]

_LOOK_S = 10.0
_MOST_MB_PER_HOUR = 12.0
"""A slope beyond it is a leak: what is kept for each run is bounded, and all runs began at the start."""
_WARM_UP = 0.25
"""Of the time: caches fill."""


async def soak(agents: int, seconds: float) -> Outcome:
    """Agents at 1 Hz, long-polls, people who look, change settings, scrape; a run that ends and one that begins."""
    outcome = Outcome()
    with folder() as home, server(home) as running:
        fleet, client = Fleet(agents, running.place, AGENT), running.client()
        fleet.start()
        waiting = [asyncio.create_task(agent.wait_for_settings()) for agent in fleet.agents]
        seen: list[tuple[float, float, int]] = []
        refused: Counter[str] = Counter()
        began = time.monotonic()
        while (at := time.monotonic() - began) < seconds:
            await asyncio.sleep(min(_LOOK_S, seconds - at))
            try:
                await asyncio.to_thread(_look, client, f"fault-{len(seen) % agents}", len(seen))
            except ClientError as error:  # 503 where the machine is so busy that Redis is late
                refused[str(error.status)] += 1
            seen.append((time.monotonic() - began, running.memory_mb(), running.descriptors()))
        unfinished = await fleet.end()
        for task in waiting:
            task.cancel()
        steady = [each for each in seen if each[0] >= _WARM_UP * seconds]
        slope = statistics.linear_regression(*zip(*((at, mb) for at, mb, _ in steady), strict=True)).slope
        memory, open_files = [mb for _, mb, _ in steady], [number for *_, number in steady]
        outcome.figures = {
            "agents": agents, "seconds": round(time.monotonic() - began), "errors": fleet.errors(),
            "errors_of_people": dict(refused),
            "batches": sum(agent.acknowledged for agent in fleet.agents),
            "p99_ms": fleet.p99_ms(began, time.monotonic()),
            "memory_mb": [round(memory[0], 1), round(memory[-1], 1)], "memory_mb_per_hour": round(3600 * slope, 2),
            "descriptors": [min(open_files), max(open_files)], "long_polls": sum(agent.polls for agent in fleet.agents),
        }  # fmt: skip
        outcome.require(not unfinished, f"{unfinished} did not come to their end")
        outcome.require(seconds < 600 or 3600 * slope <= _MOST_MB_PER_HOUR, "the server's memory grows")
        compare(outcome, fleet, client)
        count_errors(outcome, [running])
    return outcome


def _look(client: Client, run_id: str, turn: int) -> None:
    """What people and Prometheus do."""
    client.runs()
    detail = client.run(run_id)
    client.series(run_id, ["raw_norm", "loss"], points=500)
    client.parameters(run_id)
    client.events(run_id)
    client.metrics()
    client.change(
        run_id, {"gamma2": 0.9 + turn % 50 / 1000}, revision=detail.desired.revision, reason=f"soak, turn {turn}"
    )
