"""Agents that send ten steps at a time and keep at it: timeouts, backoff, registering again, as the real one."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from ingest_agents import BATCH_STEPS, Connection, Patterns

from steadynorm.transport.backoff import Backoff
from steadynorm_contract.codec import encode_json
from steadynorm_contract.telemetry import Parameter, RunRegistration

__all__ = ["Fleet", "SteadyAgent"]

PARAMETERS = 8
_ANSWER_S = 5.0  # as the real agent's read time-out
TABLE = [Parameter(f"p{at}", (64, 64), "float32") for at in range(PARAMETERS)]


@dataclass
class SteadyAgent:
    """One run. Moments are time.monotonic()."""

    run_id: str
    place: tuple[str, int]
    token: str
    every_s: float = 1.0
    acknowledged: int = 0
    incarnation: int = 0
    waits: list[tuple[float, float]] = field(default_factory=list)
    """(when a batch was due, seconds until it was acknowledged), of each."""
    errors: Counter[str] = field(default_factory=Counter)
    polls: int = 0
    patterns: Patterns = field(default_factory=lambda: Patterns(PARAMETERS))
    _connection: Connection | None = None

    async def run(self, ends: asyncio.Event, offset_s: float) -> None:
        """Until `ends` is set, and then until its last batch is acknowledged."""
        backoff = Backoff(rng=random.Random(self.run_id))
        due = time.monotonic() + offset_s
        while True:
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            if ends.is_set():
                break
            while not await self._deliver():  # noqa: ASYNC110 # as the real one does
                await asyncio.sleep(backoff.next_s())
            backoff.reset()
            self.waits.append((due, time.monotonic() - due))
            due = max(due + self.every_s, time.monotonic() - 600)
        if self._connection is not None:
            self._connection.close()

    async def wait_for_settings(self) -> None:
        """Long-polls, one after another, on a connection of their own, until cancelled."""
        connection, revision = Connection(), 0
        try:
            while True:
                try:
                    if not connection.open:
                        loop = asyncio.get_running_loop()
                        connection = (await loop.create_connection(Connection, *self.place))[1]
                    head = (
                        f"GET /api/v1/runs/{self.run_id}/settings?after_revision={revision}&wait=20 HTTP/1.1\r\n"
                        f"Host: {self.place[0]}\r\nAuthorization: Bearer {self.token}\r\n\r\n"
                    )
                    status, answer = await connection.request(head.encode(), b"")
                    self.polls += 1
                    if status == 200:
                        revision = int(json.loads(answer)["revision"])
                        continue
                except OSError:
                    connection.close()
                await asyncio.sleep(1.0)
        finally:
            connection.close()

    async def _deliver(self) -> bool:
        """One try to register, if need be, and to send the next batch."""
        try:
            if not self.incarnation and not await self._register():
                return False
            body = self.patterns.batch(self.incarnation, self.acknowledged + 1)
            status, answer = await self._request(f"/runs/{self.run_id}/telemetry", body, "application/msgpack")
            if status == 200:
                self.acknowledged = int(json.loads(answer)["acknowledged"])
                return True
            self.errors[str(status)] += 1
            if status in (404, 409):
                self.incarnation = 0
        except TimeoutError:
            self._drop("no answer")
        except OSError as error:
            self._drop(type(error).__name__)
        except (ValueError, KeyError):
            self._drop("garbage")
        return False

    def _drop(self, kind: str) -> None:
        self.errors[kind] += 1
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _register(self) -> bool:
        known = RunRegistration(name=self.run_id, run_id=self.run_id, instance=self.run_id, parameters=TABLE)
        status, answer = await self._request("/runs", encode_json(known), "application/json")
        if status not in (200, 201):
            self.errors[str(status)] += 1
            return False
        told = json.loads(answer)
        self.incarnation, self.acknowledged = int(told["incarnation"]), int(told["acknowledged"])
        return True

    async def _request(self, path: str, body: bytes, kind: str) -> tuple[int, bytes]:
        async with asyncio.timeout(_ANSWER_S):
            if self._connection is None or not self._connection.open:
                loop = asyncio.get_running_loop()
                self._connection = (await loop.create_connection(Connection, *self.place))[1]
            head = (
                f"POST /api/v1{path} HTTP/1.1\r\nHost: {self.place[0]}\r\nAuthorization: Bearer {self.token}\r\n"
                f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            return await self._connection.request(head.encode(), body)


class Fleet:
    """Many of them."""

    def __init__(
        self, number: int, place: tuple[str, int], token: str, prefix: str = "fault", every_s: float = 1.0
    ) -> None:
        patterns = Patterns(PARAMETERS)
        self.agents = [SteadyAgent(f"{prefix}-{at}", place, token, every_s, patterns=patterns) for at in range(number)]
        self._spread_s = every_s
        self._ends = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Spread over the time between two batches."""
        spread = [self._spread_s * at / len(self.agents) for at in range(len(self.agents))]
        self._tasks = [
            asyncio.create_task(agent.run(self._ends, offset))
            for agent, offset in zip(self.agents, spread, strict=True)
        ]

    async def end(self, within_s: float = 120.0) -> list[str]:
        """Let each send its last. Returns those that could not."""
        self._ends.set()
        await asyncio.wait(self._tasks, timeout=within_s)
        return [agent.run_id for agent, task in zip(self.agents, self._tasks, strict=True) if not task.done()]

    def p99_ms(self, begin: float, end: float) -> float | None:
        """Of the batches that were due between two moments."""
        waits = sorted(wait for agent in self.agents for due, wait in agent.waits if begin <= due < end)
        return round(1000 * waits[int(0.99 * (len(waits) - 1))], 1) if waits else None

    def errors(self) -> dict[str, int]:
        """What went wrong, by kind."""
        return dict(sum((agent.errors for agent in self.agents), Counter()))

    def all_heard_after(self, moment: float) -> float:
        """Seconds from a moment until each had a batch acknowledged that was not before it."""
        firsts = [min((due + wait for due, wait in a.waits if due + wait >= moment), default=float("inf"))
                  for a in self.agents]  # fmt: skip
        return round(max(firsts) - moment, 2)

    def steps(self) -> dict[str, int]:
        """Steps that the server said it has, by run."""
        return {agent.run_id: agent.acknowledged * BATCH_STEPS for agent in self.agents}
