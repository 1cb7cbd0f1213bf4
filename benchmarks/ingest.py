"""Many agents at one server: batches a second, latency, errors, and what server and store use for it.

    python benchmarks/ingest.py [--agents 1000] [--seconds 60] [--batches-per-second 1] [--parameters 200] [--waiting]
                                [--workers 2] [--search] [--scalars 64 --turns 3]

A real `steadynorm server --workers N` with its embedded store, and the agents in processes of their own
(`ingest_agents.py`). Every agent registers its run, then sends batches of 10 steps and one row of all parameters,
spread evenly over time. A batch's latency counts from the moment that it was due. --waiting: each agent also holds a
second connection on which it waits for settings, as a real agent does.

--scalars: each step also has so many of the loop's own. --turns: measure without them, without them again, and with
them, in another order in each turn, each kind with runs of its own; and print the medians and their ratios.

Prints one JSON object a measurement. --search looks for the highest rate whose p99 is at most 500 ms without an error:
measurements of --search-seconds in steps of 1.3 up or down, then three halvings. Exits with status 1 if the first
measurement has an error.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import redis
import urllib3
from ingest_agents import BATCH_STEPS, LATE_S, Outcome, Work, allow_many_files, send_all

from steadynorm_contract.codec import encode_json
from steadynorm_contract.telemetry import Parameter, Registered, RunRegistration
from steadynorm_server.runtime.process import die_with_parent

READY_S = 2.0  # for a generator to start and connect, and 2 ms an agent
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class LocalStack:
    """A running server and its store."""

    pids: list[int]  # of the server: the workers, and what holds them together
    store_pid: int
    host: str
    port: int
    token: str
    repository: redis.Redis


@contextmanager
def started(home: Path, workers: int = 1) -> Iterator[LocalStack]:
    """A server with an embedded store in `home`."""
    foreign = ("STEADYNORM_", "REDIS_URL")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment["STEADYNORM_HOME"] = str(home)
    with (home / "server.log").open("wb") as log:
        command = [sys.executable, "-m", "steadynorm_cli", "server", "--port", "0", "--workers", str(workers)]
        with_us = partial(die_with_parent, os.getpid())
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, preexec_fn=with_us)
    try:
        while not (home / "server.json").exists():
            if process.poll() is not None:
                raise SystemExit(f"the server ended: {(home / 'server.log').read_text()}")
            time.sleep(0.05)
        address = json.loads((home / "server.json").read_bytes())["server"]
        host, _, port = address.removeprefix("http://").partition(":")
        token = (home / "token").read_text("ascii").strip()
        with redis.Redis(unix_socket_path=str(home / "redis" / "redis.sock"), protocol=2) as repository:
            store_pid = repository.info("server")["process_id"]
            pids = [process.pid, *(pid for pid in children(process.pid) if pid != store_pid)]
            yield LocalStack(pids, store_pid, host, int(port), token, repository)
    finally:
        process.terminate()
        process.wait(60)


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def cpu_s(*pids: int) -> float:
    """User and system time of processes, in seconds."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS


def memory_mb(pids: Sequence[int], field: str = "VmHWM") -> float:
    """VmRSS: resident now; VmHWM: at its peak. Summed, in MB of 10^6 bytes; pages that are shared count for each."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024 / 1e6


def register(stack: LocalStack, agents: int, parameters: int, kind: str = "ingest") -> list[tuple[str, int, int]]:
    """Every agent's run, incarnation and last stored sequence. Registering again changes nothing."""
    table = [Parameter(f"blocks.{at // 12}.part{at % 12}.weight", (64, 64), "float32") for at in range(parameters)]
    headers = {"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json"}
    pool = urllib3.PoolManager(retries=False, headers=headers, maxsize=4, block=True)

    def one(number: int) -> tuple[str, int, int]:
        name = f"{kind}-{number}"
        sent = RunRegistration(name=name, run_id=name, instance=f"agent-{number}", parameters=table)
        answer = pool.request("POST", f"http://{stack.host}:{stack.port}/api/v1/runs", body=encode_json(sent))
        if answer.status not in (200, 201):
            raise SystemExit(f"registration of {name}: status {answer.status}: {answer.data.decode()}")
        known = msgspec.json.decode(answer.data, type=Registered)
        return name, known.incarnation, known.acknowledged

    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(one, range(agents)))


def generate(
    stack: LocalStack,
    runs: list[tuple[str, int, int]],
    given: argparse.Namespace,
    rate: float,
    seconds: float,
    scalars: int,
) -> tuple[list[Outcome], float]:
    """Send, from processes of their own. Returns what came of it and when it began. rate: of one agent."""
    generators: int = given.generators
    with ProcessPoolExecutor(generators, get_context("spawn"), die_with_parent, (os.getpid(),)) as processes:
        list(processes.map(abs, range(generators)))  # they are there, and have imported what they need
        start = time.monotonic() + READY_S + 0.002 * len(runs)
        parts = []
        for part in range(generators):
            at = range(part, len(runs), generators)
            offsets = [number / len(runs) / rate for number in at]
            mine = [runs[number] for number in at]
            schedule = offsets, start, seconds, 1 / rate
            parts.append(
                Work(stack.host, stack.port, stack.token, mine, *schedule, given.parameters, given.waiting, scalars)
            )
        pending = [processes.submit(send_all, part) for part in parts]
        time.sleep(max(0.0, start - time.monotonic()))
        return [each.result() for each in pending], start


def measure(
    stack: LocalStack,
    given: argparse.Namespace,
    rate: float,
    seconds: float,
    scalars: int,
    kind: str = "ingest",
) -> dict[str, Any]:
    """One measurement at `rate` batches a second of each agent. kind: of runs, which are made where there are none."""
    began = time.monotonic()
    runs = register(stack, given.agents, given.parameters, kind)
    registered_s = time.monotonic() - began
    before = _costs(stack)
    outcomes, start = generate(stack, runs, given, rate, seconds, scalars)
    after = _costs(stack)
    wall = max(outcome.last_answer for outcome in outcomes) - start
    latencies = sorted(1000 * latency for outcome in outcomes for latency in outcome.latencies)
    responses = sum((outcome.responses for outcome in outcomes), Counter())
    errors = responses.total() - responses["200"]
    memory = stack.repository.info("memory")
    return {
        "agents": given.agents,
        "workers": given.workers,
        "batches_per_second": round(rate * given.agents, 1),
        "achieved_per_second": round(responses["200"] / wall, 1),
        "steps_per_second": round(responses["200"] * BATCH_STEPS / wall),
        "seconds": round(wall, 1),
        "requests": responses.total(),
        "errors": errors,
        "answers": dict(responses),
        "waits": dict(sum((outcome.waits for outcome in outcomes), Counter())),
        "first_error": next((outcome.first_error for outcome in outcomes if outcome.first_error), "")[:300],
        "body_bytes": outcomes[0].body_bytes,
        "p50_ms": round(latencies[len(latencies) // 2], 1),
        "p99_ms": round(latencies[int(0.99 * (len(latencies) - 1))], 1),
        "longest_ms": round(latencies[-1], 1),
        "late_by_second": dict(sorted(sum((outcome.late for outcome in outcomes), Counter()).items())),
        "server_peak_mb": round(memory_mb(stack.pids), 1),
        "store_peak_mb": round(memory_mb([stack.store_pid]), 1),
        "store_used_mb": round(memory["used_memory"] / 1e6, 1),
        "server_cores": round((after["server"] - before["server"]) / wall, 3),
        "store_cores": round((after["store"] - before["store"]) / wall, 3),
        "generator_cores": round(sum(outcome.cpu_s for outcome in outcomes) / wall, 3),
        "server_cpu_ms_a_batch": round(1000 * (after["server"] - before["server"]) / max(1, responses["200"]), 3),
        "registration_s": round(registered_s, 1),
    }


def _costs(stack: LocalStack) -> dict[str, float]:
    return {"server": cpu_s(*stack.pids), "store": cpu_s(stack.store_pid)}


def search(stack: LocalStack, given: argparse.Namespace) -> dict[str, Any] | None:
    """The measurement with the highest rate that holds, None if the lowest that was tried does not."""
    best: dict[str, Any] | None = None

    def holds(rate: float) -> bool:
        nonlocal best
        found = measure(stack, given, rate, given.search_seconds, given.scalars)
        good: bool = found["errors"] == 0 and found["p99_ms"] <= 1000 * LATE_S
        print(json.dumps({"search": "holds" if good else "does not", **found}), flush=True)
        if good and (best is None or found["batches_per_second"] > best["batches_per_second"]):
            best = found
        return good

    low = high = given.batches_per_second
    if holds(low):
        while holds(high := low * 1.3):
            low = high
    else:
        while not holds(low := high / 1.3):
            high = low
            if low < given.batches_per_second / 30:
                return None
    for _ in range(3):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    return best


def in_turns(stack: LocalStack, given: argparse.Namespace) -> dict[str, Any]:
    """Without scalars, without them again, and with them: the medians of some figures, and ratios to the first."""
    kinds = {"without": 0, "again": 0, "with": given.scalars}
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for turn in range(given.turns):
        names = list(kinds)
        for kind in names[turn % len(names) :] + names[: turn % len(names)]:
            measured = measure(stack, given, given.batches_per_second, given.seconds, kinds[kind], kind)
            print(json.dumps({"turn": turn, "kind": kind, **measured}), flush=True)
            found[kind].append(measured)
    figures = ("p50_ms", "p99_ms", "server_cpu_ms_a_batch", "store_cores", "body_bytes", "errors")
    medians = {kind: {name: median(each[name] for each in found[kind]) for name in figures} for kind in kinds}
    ratios = {
        kind: {name: round(medians[kind][name] / medians["without"][name], 2) for name in figures[:-1]}
        for kind in ("again", "with")
    }
    errors = sum(each["errors"] for measured in found.values() for each in measured)
    return {"turns": given.turns, "medians": medians, "over_without": ratios, "errors": errors}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--batches-per-second", type=float, default=1.0, help="of each agent")
    parser.add_argument("--parameters", type=int, default=200)
    parser.add_argument("--scalars", type=int, default=0, help="of the loop's own in every step of each agent")
    parser.add_argument("--turns", type=int, default=0, help="measure without scalars and with them, so many times")
    parser.add_argument("--workers", type=int, default=2, help="processes of the server")
    parser.add_argument("--generators", type=int, default=1, help="processes that the agents are in")
    parser.add_argument("--waiting", action="store_true", help="each agent waits for settings, too")
    parser.add_argument("--search", action="store_true", help="look for the highest rate that holds, too")
    parser.add_argument("--search-seconds", type=float, default=20.0)
    given = parser.parse_args()
    allow_many_files()  # the server inherits it
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < given.agents + 200:
        raise SystemExit(f"{given.agents} agents need that many open files and some more: raise `ulimit -Hn`.")
    with tempfile.TemporaryDirectory() as name, started(Path(name), given.workers) as stack:
        if given.turns:
            first = in_turns(stack, given)
        else:
            first = measure(stack, given, given.batches_per_second, given.seconds, given.scalars)
        print(json.dumps(first), flush=True)
        if given.search:
            print(json.dumps({"highest": search(stack, given)}))
    if first["errors"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
