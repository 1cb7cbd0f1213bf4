"""What a scrape of /metrics costs with many runs: `python benchmarks/metrics_scrape.py --runs 1000 --parameters 200`.

A real store, the application without a socket. Prints one JSON line: seconds of each scrape, its bytes and its series;
then eight clients that scrape at once, as fast as they are answered for ten seconds: how many answers, by status.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

from steadynorm_contract.telemetry import Parameter, ParameterRows, RunRegistration, StepScalars, TelemetryBatch
from steadynorm_contract.telemetry import floats_to_bytes as packed
from steadynorm_server.app import create_app
from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig
from steadynorm_server.metrics import scrapes as scrapes_of_server
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runtime.embedded_redis import embedded_redis_server
from steadynorm_server.telemetry.registration import register as register_run
from steadynorm_server.telemetry.service import TelemetryService

COLUMNS = ("loss", "learning_rate", "raw_norm", "stabilized_norm", "target_min", "spike_ratio_max")


async def fill(repository: RunRepository, telemetry: TelemetryService, runs: int, parameters: int) -> None:
    """Register runs, each of a model of its own, with one batch of 10 steps and one row of each parameter."""
    anyone = Principal("benchmark", frozenset(Role))
    steps = list(range(1, 11))
    times = struct.pack("<10d", *(time.time() + step for step in steps))
    scalars = StepScalars(steps, times, packed([2.0, 1e-3, 1.0, 1.0, 1.0, 1.0] * 10), COLUMNS)
    rows = ParameterRows([10], parameters, packed([1.0, 1.0, 1.0, 1.0, 1.5] * parameters))
    for at in range(runs):
        names = (f"blocks.{index // 12}.part{index % 12}.model{at}.weight" for index in range(parameters))
        table = [Parameter(name, (64, 64), "float32") for name in names]
        registration = RunRegistration(name=f"run-{at}", run_id=f"run-{at}", instance="one", parameters=table)
        await register_run(repository, registration, anyone)
        await telemetry.ingest(
            f"run-{at}", TelemetryBatch(incarnation=1, sequence=1, scalars=scalars, rows=rows), anyone
        )


async def scrape_for(seconds: float, client: httpx.AsyncClient, statuses: Counter[int]) -> float:
    """Scrape for so long and count the answers. Returns how long the slowest took."""
    longest, until = 0.0, time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        answer = await client.get("/metrics", headers={"Accept-Encoding": "gzip"})
        longest = max(longest, time.monotonic() - began)
        statuses[answer.status_code] += 1
    return longest


async def measure(folder: Path, url: str, runs: int, parameters: int, scrapes: int) -> dict[str, object]:
    """Seconds of `scrapes` scrapes, the size of the last, and whether an ended run left at the next one."""
    app = create_app(ServerConfig(data=folder), url, Tokens.single("token"))
    async with app.router.lifespan_context(app):
        await fill(app.state.repository, app.state.telemetry, runs, parameters)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            shared_s, scrapes_of_server.FRESH_S = scrapes_of_server.FRESH_S, 0.0  # each reads anew
            seconds = []
            for _ in range(scrapes):
                began = time.perf_counter()
                text = (await client.get("/metrics")).text
                seconds.append(round(time.perf_counter() - began, 4))
            headers = {"Authorization": "Bearer token"}
            await client.post("/api/v1/runs/run-0/finish", json={"state": "finished"}, headers=headers)
            gone = 'run_id="run-0"' not in (await client.get("/metrics")).text
            scrapes_of_server.FRESH_S = shared_s
            statuses: Counter[int] = Counter()
            longest = await asyncio.gather(*(scrape_for(10.0, client, statuses) for _ in range(8)))
    series = sum(not line.startswith("#") for line in text.splitlines())
    return {"runs": runs, "seconds": seconds, "bytes": len(text), "series": series, "finished_run_gone": gone} | {
        "eight_clients": dict(statuses),
        "longest_s": round(max(longest), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--parameters", type=int, default=200)
    parser.add_argument("--scrapes", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, embedded_redis_server(Path(name) / "redis") as url:
        print(json.dumps(asyncio.run(measure(Path(name), url, given.runs, given.parameters, given.scrapes))))


if __name__ == "__main__":
    main()
