"""A chart of a long run: what a query costs, whether the one spike is in it, and what the store holds of the run.

    python benchmarks/query.py [--steps 1000000] [--parameters 300] [--detail-every 10] [--requests 20]

One run is stored in batches as an agent sends them, straight through `Store.ingest`, with noise for norms and losses.
Exactly one step, in the middle, has a spike: in the total norm and in the row of one tensor. Then a real server process
is started on that store and asked over HTTP for the total norm with the loss at 2,000 points and for that tensor's norm
at 500 points: over the whole run, and over a tenth, a hundredth and a thousandth of it around the spike.

Prints a line for each question (the median, its answer's size, whether the spike's maximum is in it), then one JSON
object. Exits with status 1 if the spike is missing anywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import redis
import urllib3
from malformed import served

from steadynorm_contract.series import SeriesResponse
from steadynorm_contract.telemetry import (
    ROW_COLUMNS,
    SCALAR_COLUMNS,
    Parameter,
    ParameterRows,
    RunRegistration,
    StepScalars,
    TelemetryBatch,
)
from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.retention.policy import Limits
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runtime.embedded_redis import embedded_redis_server
from steadynorm_server.telemetry.registration import register as register_run
from steadynorm_server.telemetry.service import TelemetryService

RUN_ID = "long-1"
BATCH_STEPS = 1000  # with 300 parameters and a row every 10 steps 0.6 MiB, of the 4 MiB that a body may have
SPIKE = 4096.0  # exact in float32; the noise around 1 never comes near
BEGAN = 1_750_000_000.0


@dataclass(frozen=True)
class History:
    """The run to be stored: steps 1..steps, a row of each parameter at the multiples of `detail_every`."""

    steps: int
    parameters: int
    detail_every: int

    @property
    def spike_step(self) -> int:
        """The step of the spike: in the middle of the run, and one that has a row."""
        return max(1, self.steps // 2 // self.detail_every) * self.detail_every

    @property
    def spike_parameter(self) -> int:
        """The tensor that spikes."""
        return self.parameters // 2

    @property
    def table(self) -> list[Parameter]:
        """As registered."""
        return [
            Parameter(f"blocks.{at // 12}.part{at % 12}.weight", (64, 64), "float32") for at in range(self.parameters)
        ]

    def batches(self) -> Iterator[TelemetryBatch]:
        """All telemetry, in order."""
        rng = np.random.default_rng(0)
        for sequence, first in enumerate(range(1, self.steps + 1, BATCH_STEPS), 1):
            yield self.batch(sequence, np.arange(first, min(first + BATCH_STEPS, self.steps + 1)), rng)

    def batch(self, sequence: int, steps: npt.NDArray[np.int64], rng: np.random.Generator) -> TelemetryBatch:
        """What an agent sends of these steps."""
        detailed = steps[steps % self.detail_every == 0]
        times = (BEGAN + 0.1 * steps).astype("<f8").tobytes()
        return TelemetryBatch(
            incarnation=1,
            sequence=sequence,
            scalars=StepScalars(steps.tolist(), times, self._scalars(steps, rng).tobytes()),
            rows=ParameterRows(detailed.tolist(), self.parameters, self._rows(detailed, rng).tobytes())
            if len(detailed)
            else None,
        )

    def _scalars(self, steps: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """[steps, SCALAR_COLUMNS]: a calm run but for the one step."""
        column = {name: at for at, name in enumerate(SCALAR_COLUMNS)}
        values = np.zeros((len(steps), len(SCALAR_COLUMNS)), "<f4")
        values[:, column["loss"]] = 2.0 + 0.1 * rng.standard_normal(len(steps))
        values[:, column["learning_rate"]] = 1e-3
        for name in ("raw_norm", "stabilized_norm", "spike_ratio_max"):
            values[:, column[name]] = np.exp(0.1 * rng.standard_normal(len(steps)))
        values[:, column["target_min"]] = 1.0
        values[:, column["nonfinite_parameter"]] = -1.0
        at = steps == self.spike_step
        values[at, column["raw_norm"]] = SPIKE
        values[at, column["spike_ratio_max"]] = SPIKE
        values[at, column["spike_parameter"]] = self.spike_parameter
        values[at, column["spikes"]] = 1.0
        return values

    def _rows(self, steps: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """[steps, parameters, ROW_COLUMNS]."""
        noise = rng.standard_normal((len(steps), self.parameters, len(ROW_COLUMNS)), np.float32)
        values: npt.NDArray[np.float32] = np.exp(0.1 * noise).astype("<f4")
        spiked = values[steps == self.spike_step, self.spike_parameter]
        spiked[:, [ROW_COLUMNS.index("raw_norm"), ROW_COLUMNS.index("spike_ratio")]] = SPIKE
        values[steps == self.spike_step, self.spike_parameter] = spiked
        return values


async def fill(url: str, history: History) -> float:
    """Store the run. Returns the seconds that it took."""
    anyone = Principal("benchmark", frozenset(Role))
    began = told = time.monotonic()
    async with RunRepository(url).opened() as repository:
        telemetry = TelemetryService(repository, Limits())
        registration = RunRegistration(
            name="long", run_id=RUN_ID, parameters=history.table, detail_every=history.detail_every
        )
        await register_run(repository, registration, anyone)
        for batch in history.batches():
            await telemetry.ingest(RUN_ID, batch, anyone)
            if time.monotonic() - told > 10:
                told = time.monotonic()
                done = batch.sequence * BATCH_STEPS
                print(f"  {done} of {history.steps} steps, {done / (told - began):.0f} a second", flush=True)
    return time.monotonic() - began


@dataclass(frozen=True)
class Question:
    """One request, and what its answer must contain."""

    label: str
    names: str
    points: int
    first: int | None = None
    last: int | None = None

    def query(self) -> dict[str, str]:
        """As the URL has it."""
        given = {"names": self.names, "points": self.points, "from": self.first, "to": self.last}
        return {name: str(value) for name, value in given.items() if value is not None}


class Answer(msgspec.Struct):
    """What came of a question."""

    question: str
    median_ms: float
    longest_ms: float
    first_ms: float  # of the request that does not count
    buckets: int
    bytes: int
    spike: bool  # the spike's value is the answer's maximum


def questions(history: History) -> Iterator[Question]:
    """Both kinds of series, at every zoom."""
    tensor = f"raw_norm/{history.table[history.spike_parameter].name}"
    for part in (1, 10, 100, 1000):
        half = history.steps // part // 2
        window = (None, None) if part == 1 else (max(1, history.spike_step - half), history.spike_step + half)
        zoom = "whole run" if part == 1 else f"1/{part}"
        yield Question(f"run level, {zoom}", "raw_norm,loss", 2000, *window)
        yield Question(f"one tensor, {zoom}", tensor, 500, *window)


def ask(pool: urllib3.PoolManager, address: str, question: Question, requests: int) -> Answer:
    """Ask `requests` times on one connection, after one that does not count."""
    took = []
    for _ in range(requests + 1):
        began = time.perf_counter()
        answer = pool.request("GET", f"{address}/api/v1/runs/{RUN_ID}/series", fields=question.query())
        took.append(1000 * (time.perf_counter() - began))
        if answer.status != 200:
            raise SystemExit(f"{question}: status {answer.status}: {answer.data.decode()}")
    series = msgspec.json.decode(answer.data, type=SeriesResponse).series[question.names.partition(",")[0]]
    return Answer(
        question=question.label,
        median_ms=round(statistics.median(took[1:]), 1),
        longest_ms=round(max(took[1:]), 1),
        first_ms=round(took[0], 1),
        buckets=len(series.step),
        bytes=len(answer.data),
        spike=SPIKE in series.max and max(high for high in series.max if high is not None) == SPIKE,
    )


def main() -> None:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--parameters", type=int, default=300)
    parser.add_argument("--detail-every", type=int, default=10, help="steps between rows")
    parser.add_argument("--requests", type=int, default=20, help="of each question: the median counts")
    given = parser.parse_args()
    history = History(given.steps, given.parameters, given.detail_every)
    with tempfile.TemporaryDirectory() as name, embedded_redis_server(Path(name) / "redis") as url:
        with redis.Redis.from_url(url, protocol=2) as repository:
            before = repository.info("memory")["used_memory"]
            seconds = asyncio.run(fill(url, history))
            print(f"stored {given.steps} steps of {given.parameters} parameters in {seconds:.0f} s", flush=True)
            keys = repository.keys(f"steadynorm:{{{RUN_ID}}}:*")
            held = {key.decode().rpartition("}:")[2]: repository.memory_usage(key, samples=0) for key in keys}
            grown = repository.info("memory")["used_memory"] - before
        with served(url, Path(name)) as (_, address, token):
            pool = urllib3.PoolManager(retries=False, headers={"Authorization": f"Bearer {token}"})
            responses = []
            for question in questions(history):
                responses.append(ask(pool, address, question, given.requests))
                print(" ", msgspec.json.encode(responses[-1]).decode(), flush=True)
    result = {
        "steps": given.steps,
        "parameters": given.parameters,
        "spike_step": history.spike_step,
        "fill_s": round(seconds, 1),
        "steps_per_second": round(given.steps / seconds),
        "run_level_median_ms": responses[0].median_ms,
        "tensor_median_ms": responses[1].median_ms,
        "worst_median_ms": max(answer.median_ms for answer in responses),
        "keys_mib": round(sum(held.values()) / 2**20, 2),
        "used_memory_grown_mib": round(grown / 2**20, 2),
        "keys_kib": {key: round(size / 1024) for key, size in sorted(held.items())},
        "spike_in_every_answer": all(answer.spike for answer in responses),
    }
    print(json.dumps(result))
    if not result["spike_in_every_answer"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
