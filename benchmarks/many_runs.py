"""What lists, scrapes and sweeps cost with many runs: `python benchmarks/many_runs.py --runs 100000 --live 1000`.

A real store, the application without a socket. A few runs are registered and send a batch as agents do; the others are
copies of their hashes under names, tags and times of their own. Prints one JSON line. Of each request three medians
in milliseconds: the time, the time of the same requests once more (A/A), and this process' CPU; they are more than a
second apart, so that none is answered with what the one before read. A sweep's are seconds, memory is MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import redis

from steadynorm_contract.telemetry import Parameter, RunRegistration, StepScalars, TelemetryBatch
from steadynorm_contract.telemetry import floats_to_bytes as packed
from steadynorm_server import app as application
from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig
from steadynorm_server.redis import client as client_of_redis
from steadynorm_server.retention import sweeper
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runtime.embedded_redis import embedded_redis_server
from steadynorm_server.telemetry.registration import register as register_run
from steadynorm_server.telemetry.service import TelemetryService

COLUMNS = ("loss", "learning_rate", "raw_norm", "stabilized_norm", "target_min", "spike_ratio_max")
TEMPLATES = 20
ENDS = ("finished", "finished", "finished", "failed", "stopped")
QUERIES = {
    "first page": "/fleet?limit=200",
    "current": "/fleet?limit=200&current=true",
    "search": "/fleet?limit=200&search=sweep-7 lr=3",
    "search of nothing": "/fleet?limit=200&search=nowhere",
    "name": "/fleet?limit=200&name=*-77*",
    "tag": "/fleet?limit=200&tag=team=a3",
    "group": "/fleet?limit=200&group=team",
    "list": "/runs?limit=100",
    **{f"sort {sort}": f"/fleet?limit=200&sort={sort}" for sort in ("name", "-started", "-step", "-loss", "last_seen")},
    **{f"list by {sort}": f"/runs?limit=100&sort={sort}" for sort in ("name", "-step")},
}


async def register_some(repository: RunRepository, telemetry: TelemetryService) -> list[str]:
    """A few runs, as agents make them."""
    anyone = Principal("benchmark", frozenset(Role))
    steps = list(range(1, 11))
    table = [Parameter(f"blocks.{at}.weight", (64, 64), "float32") for at in range(8)]
    for at in range(TEMPLATES):
        times = struct.pack("<10d", *(time.time() + step for step in steps))
        scalars = StepScalars(steps, times, packed([2.0 + at, 1e-3, 1.0, 1.0, 1.0, 1.0] * 10), COLUMNS)
        registration = RunRegistration(name=f"real-{at}", run_id=f"real-{at}", instance="one", parameters=table)
        await register_run(repository, registration, anyone)
        await telemetry.ingest(f"real-{at}", TelemetryBatch(incarnation=1, sequence=1, scalars=scalars), anyone)
    return [f"real-{at}" for at in range(TEMPLATES)]


def copy_runs(store: Any, templates: list[str], runs: int, live: int) -> list[str]:
    """The other runs; returns those that have not ended."""
    hashes = [store.hgetall(f"steadynorm:{{{run_id}}}:run") for run_id in templates]
    tables = [store.get(f"steadynorm:{{{run_id}}}:parameters") for run_id in templates]
    now, running = time.time(), []
    for first in range(0, runs - len(templates), 1000):
        with store.pipeline(transaction=False) as pipe:
            for at in range(first, min(first + 1000, runs - len(templates))):
                run_id, ended = f"copy-{at:06d}", at >= live - len(templates)
                copied = dict(hashes[at % len(hashes)])
                info = json.loads(copied[b"info"])
                info["tags"] = {"team": f"a{at % 9}", "sweep": f"s{at // 50}", "lr": f"{at % 7}e-4"}
                began = now - 60.0 * at
                copied |= {
                    b"name": f"sweep-{at // 50}-lr={at % 7}e-4-{at}".encode(),
                    b"info": json.dumps(info).encode(),
                }
                copied |= {
                    b"started": repr(began).encode(),
                    b"last_seen": repr(began + 3600 if ended else now).encode(),
                }
                copied[b"state"] = ENDS[at % len(ENDS)].encode() if ended else b"running"
                pipe.hset(f"steadynorm:{{{run_id}}}:run", mapping=copied)
                if not ended:
                    pipe.set(f"steadynorm:{{{run_id}}}:parameters", tables[at % len(tables)])
                    running.append(run_id)
            pipe.execute()
    return [*templates, *running]


def resident_mib() -> float:
    """Memory that this process takes now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_s() -> float:
    """CPU that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(folder: Path, url: str, runs: int, live: int, repeats: int) -> dict[str, Any]:
    """All figures."""

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    client_of_redis.TIMEOUT_S = 60.0  # a busy machine shall be slow, and not fail
    setattr(application, "sweep_repeatedly", never)  # noqa: B010 # no export of the module; sweeps are measured singly
    app = application.create_app(ServerConfig(data=folder), url, Tokens.single("token"))
    headers = {"Authorization": "Bearer token"}
    store: Any = redis.Redis.from_url(url, protocol=2)
    async with app.router.lifespan_context(app):
        state, transport = app.state, httpx.ASGITransport(app)
        running = copy_runs(store, await register_some(state.repository, state.telemetry), runs, live)
        await state.repository.rebuild_index()
        store_mib = store.info("memory")["used_memory"] / 2**20

        def go_on() -> None:
            """As if all live runs had sent a batch."""
            with store.pipeline(transaction=False) as pipe:
                for run_id in running:
                    pipe.hset(f"steadynorm:{{{run_id}}}:run", "last_seen", repr(time.time()))
                pipe.execute()

        before_mib = resident_mib()
        async with httpx.AsyncClient(transport=transport, base_url="http://test/api/v1", headers=headers) as client:

            async def timed(path: str) -> tuple[float, float]:
                go_on()
                await asyncio.sleep(1.01)
                began, used = time.perf_counter(), cpu_s()
                answer = await client.get(path, timeout=600)
                took = time.perf_counter() - began, cpu_s() - used
                assert answer.status_code == 200, answer.text
                return 1000 * took[0], 1000 * took[1]

            first = await timed("/fleet?limit=200")
            found: dict[str, Any] = {"first answer of the process": [round(each) for each in first]}
            found["process"] = round(resident_mib() - before_mib)
            print(json.dumps(found | {"store": round(store_mib)}), file=sys.stderr, flush=True)
            for name, path in {**QUERIES, "scrape": "http://test/metrics"}.items():
                took = [[await timed(path) for _ in range(repeats)] for _ in range(2)]
                times = [statistics.median(time for time, _ in each) for each in took]
                found[name] = [
                    round(each, 1) for each in (*times, statistics.median(cpu for each in took for _, cpu in each))
                ]
                print(name, found[name], file=sys.stderr, flush=True)  # for who waits
            sweeps = []
            for _ in range(repeats):
                go_on()
                began, used = time.perf_counter(), cpu_s()
                await sweeper.sweep(state.repository, state.limits)
                sweeps.append((cpu_s() - used, time.perf_counter() - began))
        found["sweep's CPU"], found["sweep"] = (round(statistics.median(part), 3) for part in zip(*sweeps, strict=True))
    return {"runs": runs, "live": live, **found, "store": round(store_mib), "load": os.getloadavg()[0]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--live", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, embedded_redis_server(Path(name) / "redis") as url:
        print(json.dumps(asyncio.run(measure(Path(name), url, given.runs, given.live, given.repeats))))


if __name__ == "__main__":
    main()
