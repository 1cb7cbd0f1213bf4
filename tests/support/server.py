"""Helpers of the server's tests: a settable clock, an in-process client, an agent that speaks the wire format."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import httpx
import redis
from fastapi import FastAPI

from steadynorm_contract.codec import encode_batch, encode_json
from steadynorm_contract.rule import THROTTLED_TARGET
from steadynorm_contract.scalars import ScalarRecords
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import (
    AppliedReport,
    Parameter,
    ParameterRows,
    RevisionOutcome,
    RunRegistration,
    SpikeReference,
    StepScalars,
    TelemetryBatch,
    floats_to_bytes,
)
from steadynorm_server.redis.keys import INDEX
from steadynorm_server.retention import sweeper
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository

TOKEN = "a-token-for-tests"
STARTED = 1_700_000_000.0

Serve = Callable[..., Awaitable[httpx.AsyncClient]]
"""Starts another application over the same Redis and returns a client of it."""


class Clock:
    """A clock that tests set by hand."""

    def __init__(self) -> None:
        self.now = STARTED

    def __call__(self) -> float:
        return self.now


def emptied(url: str) -> str:
    """Empty the Redis at this address; returns the address."""
    with redis.Redis.from_url(url, protocol=2) as client:
        client.execute_command("FLUSHALL", "SYNC")
    return url


async def all_runs(repository: RunRepository) -> list[RunRecord]:
    """All that are indexed, newest first."""
    return await repository.get_many(await repository.redis.index(INDEX))


def as_if_restarted(url: str) -> None:
    """Let the runs in the Redis at this address look as if another process had held them: it may have lost changes."""
    with redis.Redis.from_url(url, protocol=2) as client:
        for key in client.keys("steadynorm:{*}:run"):
            client.hset(key, "store", "another")


@contextlib.asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client that reaches `app` without a socket. An exception that the app lets out fails the test."""
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test/api/v1", headers=headers) as client:
            client.app = app  # type: ignore[attr-defined] # for tests that reach behind
            yield client


PARAMETERS = [Parameter("embed.weight", (16, 4), "float32"), Parameter("head.weight", (4, 16), "float32")]


def registration(**changes: Any) -> RunRegistration:
    """An agent's registration of a run named tiny with two parameters."""
    return RunRegistration(
        **{
            "name": "tiny",
            "run_id": "tiny-1",
            "instance": "one",
            "parameters": PARAMETERS,
            "spike_reference": SpikeReference.BASELINE,
            **changes,
        }
    )


def scalars(steps: Sequence[int], **columns: float | Sequence[float]) -> StepScalars:
    """Step scalars: what is not given is calm, a target below 0.3 is a spike's. A number stands for all steps.

    Step s happens at STARTED + s.
    """
    target = columns.get("target_min", 1.0)
    targets = [target] * len(steps) if isinstance(target, float | int) else target
    small = [float(each < THROTTLED_TARGET) for each in targets]
    calm: Mapping[str, float | Sequence[float]] = {
        "loss": 2.0,
        "learning_rate": 1e-3,
        "raw_norm": 1.0,
        "stabilized_norm": 1.0,
        "target_min": 1.0,
        "target_parameter": 0,
        "spike_ratio_max": 1.0,
        "spike_parameter": 0,
        "spikes": 0,
        "nonfinite": 0,
        "nonfinite_parameter": -1,
        "throttled": small,
        **columns,
    }
    table = [[value] * len(steps) if isinstance(value, int | float) else list(value) for value in calm.values()]
    return StepScalars(
        list(steps),
        struct.pack(f"<{len(steps)}d", *(STARTED + step for step in steps)),
        floats_to_bytes(value for row in zip(*table, strict=True) for value in row),
        tuple(calm),
    )


def rows(steps: Sequence[int], values: Sequence[Sequence[Sequence[float]]], parameters: int = 2) -> ParameterRows:
    """Per-parameter rows: values[step][parameter] = raw_norm, norm_mean, norm_rms, scale, spike_ratio."""
    flat = [number for step in values for parameter in step for number in parameter]
    return ParameterRows(list(steps), parameters, floats_to_bytes(flat))


def logged(steps: Sequence[int], **values: float | Sequence[float]) -> ScalarRecords:
    """What a loop logged under names of its own. NaN: not in this record; infinite: NaN or infinite."""
    table = [[value] * len(steps) if isinstance(value, int | float) else list(value) for value in values.values()]
    return ScalarRecords(
        tuple(values),
        list(steps),
        struct.pack(f"<{len(steps)}d", *(STARTED + step for step in steps)),
        floats_to_bytes(value for row in zip(*table, strict=True) for value in row),
    )


def batch(sequence: int, steps: Sequence[int] = (), *, incarnation: int = 1, **columns: Any) -> TelemetryBatch:
    """A batch of step scalars."""
    return TelemetryBatch(
        incarnation=incarnation, sequence=sequence, scalars=scalars(steps, **columns) if steps else None
    )


def applied(revision: int, step: int, outcome: str = "applied", reason: str = "", **settings: Any) -> AppliedReport:
    """An agent's word on a revision."""
    return AppliedReport(
        revision, step, RevisionOutcome(outcome), Settings(**settings), time=STARTED + step, reason=reason
    )


async def sweep(client: httpx.AsyncClient) -> None:
    """One sweep by the server of `client`."""
    state = client.app.state  # type: ignore[attr-defined] # set by client_of
    await sweeper.sweep(state.repository, state.limits)


class Command(NamedTuple):
    """A command that Redis executed: its name in lower case, whether it writes, and whether a script called it."""

    name: str
    writes: bool
    in_script: bool


@contextlib.asynccontextmanager
async def recorded_commands(url: str) -> AsyncIterator[list[Command]]:
    """Commands that the Redis at `url` executes during the block, without those that set up connections."""
    commands: list[Command] = []
    with redis.Redis.from_url(url, protocol=2) as client:
        writing = {name for name, about in client.command().items() if "write" in about["flags"]}
        with client.monitor() as monitor:
            yield commands
            client.echo("the block has ended")
            for seen in iter(monitor.next_command, None):
                name = seen["command"].split(" ", 1)[0].lower()
                if name == "echo":
                    break
                if name not in ("ping", "client", "hello", "auth", "select", "subscribe"):
                    commands.append(Command(name, name in writing, seen["client_type"] == "lua"))


class FakeAgent:
    """Speaks to a server as an agent does, one request at a time."""

    rows = staticmethod(rows)
    applied = staticmethod(applied)
    batch = staticmethod(batch)
    logged = staticmethod(logged)

    def __init__(self, client: httpx.AsyncClient, **changes: Any) -> None:
        self.client = client
        self.registration = registration(**changes)
        self.run = f"/runs/{self.registration.run_id}"
        self.incarnation = 0
        self.sequence = 0

    async def register(self) -> dict[str, Any]:
        """Register; raises unless the server is content."""
        answer = await self.client.post("/runs", content=encode_json(self.registration))
        assert answer.status_code in (200, 201), answer.text
        registered: dict[str, Any] = answer.json()
        self.incarnation, self.sequence = registered["incarnation"], registered["acknowledged"]
        return registered

    async def send(self, steps: Sequence[int] = (), **columns: Any) -> dict[str, Any]:
        """Send the next batch: step scalars, or the fields applied, rows, counters, ... of a TelemetryBatch."""
        fields = ("applied", "rows", "counters", "batch_ids", "notes", "user_notes", "recovery", "logged", "described")
        others = {name: columns.pop(name) for name in fields if name in columns}
        sent = TelemetryBatch(
            incarnation=self.incarnation,
            sequence=self.sequence + 1,
            scalars=scalars(steps, **columns) if steps else None,
            **others,
        )
        answer = await self.post(sent)
        assert answer.status_code == 200, answer.text
        self.sequence += 1
        acknowledged: dict[str, Any] = answer.json()
        return acknowledged

    async def post(self, sent: TelemetryBatch) -> httpx.Response:
        """Send any batch."""
        return await self.client.post(f"{self.run}/telemetry", content=encode_batch(sent))

    async def get(self, path: str = "", **query: Any) -> dict[str, Any]:
        """GET something of the run."""
        answer = await self.client.get(self.run + path, params=query or None)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def change(self, revision: int | str | None, settings: Any, **more: Any) -> httpx.Response:
        """PATCH the settings."""
        headers = {} if revision is None else {"If-Match": f'"{revision}"' if isinstance(revision, int) else revision}
        body = encode_json({"settings": settings, **more})
        return await self.client.patch(f"{self.run}/settings", content=body, headers=headers)

    async def events(self) -> list[dict[str, Any]]:
        """All events, oldest first, without the one of the start."""
        found: list[dict[str, Any]] = (await self.get("/events"))["events"][::-1]
        return [event for event in found if event["kind"] != "started"]
