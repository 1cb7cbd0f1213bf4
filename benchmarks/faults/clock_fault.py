"""The server's clock is set a day ahead, then two days back, while runs are live and others have ended."""

from __future__ import annotations

import asyncio
import time

from fault_stack import AGENT, Outcome, compare, count_errors, folder, server
from steady_agents import Fleet

__all__ = ["clock"]

_PROGRAM = """
import sys, time
from pathlib import Path
real = time.time
def shifted(file=Path(sys.argv.pop(1))):
    return real() + float(file.read_text() or 0)
time.time = shifted
from steadynorm_cli.__main__ import main
main()
"""
DAY_S = 86_400


async def clock(agents: int, seconds: float) -> Outcome:
    """A third each: right, a day ahead, a day behind. Runs are kept for half a day."""
    outcome, third = Outcome(), seconds / 3
    with folder() as home:
        offset, program = home / "offset", home / "program.py"
        offset.write_text("0")
        program.write_text(_PROGRAM)
        started = server(home / "server", program=(str(program), str(offset)), STEADYNORM_RETENTION_DAYS="0.5")
        with started as running:
            fleet, client = Fleet(agents, running.place, AGENT), running.client()
            fleet.start()
            p99, states = {}, {}
            for name, shift_s in (("right", 0), ("a day ahead", DAY_S), ("a day behind", -DAY_S)):
                offset.write_text(str(shift_s))
                began = time.monotonic()
                await asyncio.sleep(third)
                p99[name] = fleet.p99_ms(began, time.monotonic())
                found = await asyncio.to_thread(client.runs)
                states[name] = sorted({run.state.value for run in found.runs})
                outcome.require(states[name] == ["running"], f"{name}: live runs are {states[name]}")
                outcome.require(len(found.runs) == agents, f"{name}: {agents - len(found.runs)} runs are gone")
            unfinished = await fleet.end()
            outcome.figures = {"agents": agents, "p99_ms": p99, "states": states, "errors": fleet.errors()}
            outcome.require(not unfinished, f"{unfinished} did not come to their end")
            outcome.require(not fleet.errors(), f"agents met errors: {fleet.errors()}")
            compare(outcome, fleet, client)
            count_errors(outcome, [running])
    return outcome
