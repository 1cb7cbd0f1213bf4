"""Change → agent, with many agents waiting; what waiting costs; and operators who race each other.

    python benchmarks/live_change.py [--agents 1000] [--changes 300] [--changes-per-second 10] [--races 500] [--wait 25]

A real `steadynorm server` with its embedded store. All agents wait for settings as real ones do, each on a connection
of its own, in this one process, which is the operator too.

idle: what server and store use while everybody waits and nothing happens, over twice the time of one wait.
change: random runs at random moments, from before the operator's request is sent until that run's agent has the answer.
races: two operators send different changes of one run and one revision in the same instant. One must win and the other
get 412; afterwards every audit list must hold all winners, no losers, and be an unbroken chain.

Prints one JSON object a part. Exits with status 1 if an answer is wrong or missing, or p95 is above 300 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from ingest import LocalStack, cpu_s, memory_mb, register, started
from ingest_agents import Connection, allow_many_files

from steadynorm_contract.audit import AuditList, verify
from steadynorm_contract.codec import encode_json
from steadynorm_contract.telemetry import Desired

P95_MS = 300.0
ANSWER_S = 60.0


class Agents:
    """Wait for settings, each on its own connection, and remember when each revision came."""

    def __init__(self, stack: LocalStack, runs: list[str], wait_s: float) -> None:
        self._stack, self._runs, self._wait_s = stack, runs, wait_s
        self.has = dict.fromkeys(runs, 0)  # newest revision
        self.moments: dict[tuple[str, int], float] = {}
        self.responses: Counter[str] = Counter()
        self._news = asyncio.Condition()

    async def wait(self, run_id: str) -> None:
        """Until cancelled."""
        connection = await connect(self._stack)
        while True:
            path = f"/runs/{run_id}/settings?after_revision={self.has[run_id]}&wait={self._wait_s:g}"
            async with asyncio.timeout(self._wait_s + ANSWER_S):
                status, body = await ask(self._stack, connection, "GET", path)
            self.responses[str(status)] += 1
            if status != 200:
                raise SystemExit(f"{path}: status {status}: {body.decode()}")
            revision = msgspec.json.decode(body, type=Desired).revision
            if revision > self.has[run_id]:
                self.has[run_id] = revision
                self.moments[run_id, revision] = time.monotonic()
                async with self._news:
                    self._news.notify_all()

    async def have(self, revisions: dict[str, int]) -> None:
        """Until every run's agent has at least this revision."""
        async with asyncio.timeout(ANSWER_S), self._news:
            await self._news.wait_for(lambda: all(self.has[run] >= revision for run, revision in revisions.items()))


async def connect(stack: LocalStack) -> Connection:
    """A connection to the server."""
    return (await asyncio.get_running_loop().create_connection(Connection, stack.host, stack.port))[1]


def ask(
    stack: LocalStack, connection: Connection, method: str, path: str, body: bytes = b"", extra: str = ""
) -> asyncio.Future[tuple[int, bytes]]:
    """Send a request; await its status and body."""
    head = (
        f"{method} /api/v1{path} HTTP/1.1\r\nHost: {stack.host}:{stack.port}\r\nAuthorization: Bearer {stack.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    )
    return connection.request(head.encode(), body)


def patch(
    stack: LocalStack, connection: Connection, run_id: str, revision: int, gamma2: float, reason: str
) -> asyncio.Future[tuple[int, bytes]]:
    """Send a change; await its status and body."""
    body = encode_json({"settings": {"gamma2": gamma2}, "reason": reason})
    return ask(stack, connection, "PATCH", f"/runs/{run_id}/settings", body, f'If-Match: "{revision}"\r\n')


async def idle(stack: LocalStack, seconds: float) -> dict[str, Any]:
    """What waiting costs."""
    before, began = (cpu_s(*stack.pids), cpu_s(stack.store_pid)), time.monotonic()
    await asyncio.sleep(seconds)
    wall = time.monotonic() - began
    return {
        "seconds": round(wall, 1),
        "server_cores": round((cpu_s(*stack.pids) - before[0]) / wall, 4),
        "store_cores": round((cpu_s(stack.store_pid) - before[1]) / wall, 4),
        "server_mb": round(memory_mb(stack.pids, "VmRSS"), 1),
    }


async def change(stack: LocalStack, agents: Agents, runs: list[str], number: int, rate: float) -> dict[str, Any]:
    """How long a change takes to its agent."""
    chance, sent, wanted = random.Random(0), {}, dict.fromkeys(runs, 0)
    operator, answered = await connect(stack), []
    began, operators, before = time.monotonic(), time.process_time(), cpu_s(*stack.pids)
    for _ in range(number):
        await asyncio.sleep(chance.expovariate(rate))
        run_id = chance.choice(runs)
        moment = time.monotonic()
        status, body = await patch(stack, operator, run_id, wanted[run_id], 0.5 + 0.4 * chance.random(), "a change")
        if status != 200:
            raise SystemExit(f"change of {run_id}: status {status}: {body.decode()}")
        answered.append(1000 * (time.monotonic() - moment))
        wanted[run_id] += 1
        sent[run_id, wanted[run_id]] = moment
    await agents.have(wanted)
    wall = time.monotonic() - began
    # A revision that the next one overtook came with it.
    took = sorted(1000 * (agents.moments[key] - moment) for key, moment in sent.items() if key in agents.moments)
    return {
        "changes": number,
        "overtaken": number - len(took),
        **quantiles(took),
        "operator": quantiles(sorted(answered)),
        "server_cores": round((cpu_s(*stack.pids) - before) / wall, 3),
        "agents_and_operator_cores": round((time.process_time() - operators) / wall, 3),
    }


def quantiles(sorted_ms: list[float]) -> dict[str, float]:
    """In milliseconds."""
    at = {"p50_ms": 0.5, "p95_ms": 0.95, "longest_ms": 1.0}
    return {name: round(sorted_ms[int(part * (len(sorted_ms) - 1))], 1) for name, part in at.items()}


async def race(stack: LocalStack, agents: Agents, runs: list[str], number: int) -> dict[str, Any]:
    """Two operators, one revision."""
    chance, operators = random.Random(1), [await connect(stack) for _ in range(2)]
    winners: dict[str, list[str]] = {}
    outcomes: Counter[str] = Counter()
    for at in range(number):
        run_id = chance.choice(runs)
        revision = agents.has[run_id]
        order = chance.sample(range(2), 2)
        sent = {}
        for who in order:
            reason = f"race {at} operator {who}"
            sent[reason] = patch(stack, operators[who], run_id, revision, 0.1 + 0.4 * chance.random(), reason)
        responses = {reason: (await answer)[0] for reason, answer in sent.items()}
        outcomes[" ".join(map(str, sorted(responses.values())))] += 1
        winners.setdefault(run_id, []).extend(reason for reason, status in responses.items() if status == 200)
        await agents.have({run_id: revision + 1})
    complete = chained = 0
    for run_id, reasons in winners.items():
        _, body = await ask(stack, operators[0], "GET", f"/runs/{run_id}/audit?limit=10000")
        audit = msgspec.json.decode(body, type=AuditList)
        raced = [entry.reason for entry in reversed(audit.entries) if entry.reason.startswith("race")]
        whole = [entry.revision for entry in audit.entries] == list(range(agents.has[run_id], 0, -1))
        complete += whole and raced == reasons
        chained += verify(run_id, audit.entries).verified and bool(audit.chain and audit.chain.verified)
    return {"races": number, "outcomes": dict(outcomes), "runs": len(winners), "complete": complete, "chained": chained}


async def measure(stack: LocalStack, given: argparse.Namespace) -> bool:
    """All parts. Returns whether all is as it should be."""
    runs = [run_id for run_id, _, _ in await asyncio.to_thread(register, stack, given.agents, 1)]
    agents = Agents(stack, runs, given.wait)
    async with asyncio.TaskGroup() as group:
        waiting = []
        for run_id in runs:
            waiting.append(group.create_task(agents.wait(run_id)))
            await asyncio.sleep(given.wait / len(runs) / 4)  # that not all ask again in one instant
        rested = await idle(stack, 2 * given.wait)
        print(json.dumps({"part": "idle", "waiting": len(runs), **rested}), flush=True)
        changed = await change(stack, agents, runs, given.changes, given.changes_per_second)
        print(json.dumps({"part": "change", "waiting": len(runs), **changed}), flush=True)
        raced = await race(stack, agents, runs, given.races)
        print(json.dumps({"part": "races", "waiting": len(runs), **raced}), flush=True)
        for task in waiting:
            task.cancel()
    fair = raced["outcomes"] == {"200 412": given.races} and raced["complete"] == raced["chained"] == raced["runs"]
    return bool(fair and changed["p95_ms"] <= P95_MS)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=300)
    parser.add_argument("--changes-per-second", type=float, default=10.0)
    parser.add_argument("--races", type=int, default=500)
    parser.add_argument("--wait", type=float, default=25.0, help="seconds that an agent waits before it asks again")
    given = parser.parse_args()
    allow_many_files()  # the server inherits it
    with tempfile.TemporaryDirectory() as name, started(Path(name)) as stack:
        good = asyncio.run(measure(stack, given))
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
