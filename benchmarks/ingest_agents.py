"""For ingest.py: many agents in one process, each with a connection of its own, sending batches on a schedule.

As a real agent does, each can wait for its settings on a second connection meanwhile.

HTTP/1.1 by hand on asyncio's transports: what the generator does not use, the server may have. Latency counts from the
moment that a batch was due, not from when it was sent: a server that falls behind cannot make its delays disappear.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections import Counter
from dataclasses import dataclass

import msgspec
import numpy as np

from steadynorm_contract.codec import encode_batch
from steadynorm_contract.scalars import ScalarRecords
from steadynorm_contract.telemetry import (
    ROW_COLUMNS,
    SCALAR_COLUMNS,
    ParameterRows,
    StepScalars,
    TelemetryAck,
    TelemetryBatch,
)

__all__ = ["BATCH_STEPS", "LATE_S", "Outcome", "Work", "allow_many_files", "send_all"]

BATCH_STEPS = 10
GIVE_UP_S = 5.0  # after the last batch was due; what was not even sent by then counts as unsent
ANSWER_S = 60.0
LATE_S = 0.5
WAIT_S = 20.0
PATTERNS = 16
CONTENT_LENGTH = b"content-length:"


@dataclass(frozen=True)
class Work:
    """What one process does. Moments are time.monotonic(), which is the same clock in all processes of a machine."""

    host: str
    port: int
    token: str
    runs: list[tuple[str, int, int]]  # run id, incarnation, last sequence that the server has
    offsets: list[float]  # seconds after `start` that each run's first batch is due
    start: float
    seconds: float
    every: float  # seconds between the batches of one run
    parameters: int
    waiting: bool  # for settings, each agent beside its batches
    scalars: int = 0  # logged under names of the loop's own in every step


@dataclass
class Outcome:
    """What came of it."""

    latencies: list[float]  # seconds, of every batch that was due: to the answer, or to where it was given up
    late: Counter[int]  # batches that took longer than LATE_S, by the second in which they were due
    responses: Counter[str]  # "200", another status, "unsent", or what went wrong with the connection
    waits: Counter[str]  # answers to those who waited for settings
    first_error: str
    body_bytes: int  # of the last batch
    cpu_s: float
    last_answer: float  # moment


def allow_many_files() -> None:
    """As many open files as this user may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Patterns:
    """Numbers of batches, made once: 10 steps of scalars and one row of each parameter, all different by noise."""

    def __init__(self, parameters: int, scalars: int = 0) -> None:
        rng = np.random.default_rng(0)
        self._parameters = parameters
        self._names = tuple(f"own/{at}" for at in range(scalars))
        self._own = rng.standard_normal((PATTERNS, BATCH_STEPS, scalars)).astype("<f4")
        self._scalars, self._rows = [], []
        calm = {"loss": 2.0, "learning_rate": 1e-3, "raw_norm": 1.0, "stabilized_norm": 1.0, "target_min": 0.9}
        calm |= {"spike_ratio_max": 1.2, "nonfinite_parameter": -1.0}
        noisy = [name in ("loss", "raw_norm", "stabilized_norm", "spike_ratio_max") for name in SCALAR_COLUMNS]
        for _ in range(PATTERNS):
            noise = np.exp(0.1 * rng.standard_normal((BATCH_STEPS, len(SCALAR_COLUMNS))))
            columns = np.array([calm.get(name, 0.0) for name in SCALAR_COLUMNS]) * np.where(noisy, noise, 1.0)
            rows = np.exp(0.1 * rng.standard_normal((parameters, len(ROW_COLUMNS))))
            self._scalars.append(columns.astype("<f4").tobytes())
            self._rows.append(rows.astype("<f4").tobytes())

    def batch(self, incarnation: int, sequence: int) -> bytes:
        """A body: the numbers of a pattern, with this batch's steps and times."""
        steps = list(range((sequence - 1) * BATCH_STEPS + 1, sequence * BATCH_STEPS + 1))
        times = (time.time() + np.arange(-BATCH_STEPS + 1, 1) / BATCH_STEPS).astype("<f8").tobytes()
        at = sequence % PATTERNS
        scalars = StepScalars(steps, times, self._scalars[at])
        rows = ParameterRows(steps[-1:], self._parameters, self._rows[at])
        logged = [ScalarRecords(self._names, steps, times, self._own[at].tobytes())] if self._names else []
        batch = TelemetryBatch(incarnation=incarnation, sequence=sequence, scalars=scalars, rows=rows, logged=logged)
        return encode_batch(batch)


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time. Its answer is (status, body) or a ConnectionError."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The way to send."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.open = transport, True

    def request(self, head: bytes, body: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Send; await what is returned."""
        self._received = b""
        self.answer = asyncio.get_running_loop().create_future()
        if self._transport is not None and self.open:
            self._transport.write(head + body)
        else:
            self.connection_lost(None)
        return self.answer

    def data_received(self, data: bytes) -> None:
        """An answer is whole when its body has the length that its head says."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        stated = head.lower().partition(CONTENT_LENGTH)[2]
        length = int(stated.split(b"\r\n", 1)[0]) if stated else 0  # 304 has none
        if len(body) >= length and self.answer is not None and not self.answer.done():
            self.answer.set_result((int(head[9:12]), body[:length]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits is told."""
        self.open = False
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionResetError(str(exc or "closed by the server")))

    def close(self) -> None:
        """No more requests."""
        if self._transport is not None:
            self._transport.close()


class Agents:
    """All agents of one process."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._patterns = Patterns(work.parameters, work.scalars)
        self.outcome = Outcome([], Counter(), Counter(), Counter(), "", 0, 0.0, work.start)

    async def run(self) -> Outcome:
        """Until every batch is answered or given up."""
        loop = asyncio.get_running_loop()
        place = self._work.host, self._work.port
        connections = [(await loop.create_connection(Connection, *place))[1] for _ in self._work.runs]
        if (late := time.monotonic() - self._work.start) > 0:
            raise SystemExit(f"the generator was ready {late:.1f} s after it should have begun")
        waiting = [loop.create_task(self._wait(at)) for at in range(len(self._work.runs)) if self._work.waiting]
        gc.freeze()
        began = time.process_time()
        async with asyncio.TaskGroup() as group:
            for at, connection in enumerate(connections):
                group.create_task(self._agent(at, connection))
        self.outcome.cpu_s = time.process_time() - began
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return self.outcome

    async def _agent(self, at: int, connection: Connection) -> None:
        work, outcome = self._work, self.outcome
        run_id, incarnation, sequence = work.runs[at]
        head = (
            f"POST /api/v1/runs/{run_id}/telemetry HTTP/1.1\r\nHost: {work.host}:{work.port}\r\n"
            f"Authorization: Bearer {work.token}\r\nContent-Type: application/msgpack\r\nContent-Length: "
        ).encode()
        give_up = work.start + work.seconds + GIVE_UP_S
        for number in range(round(work.seconds / work.every)):
            due = work.start + work.offsets[at] + number * work.every
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            if time.monotonic() > give_up:
                self._count("unsent", due, f"not sent {GIVE_UP_S:g} s after the end: the server is behind")
                continue
            body = self._patterns.batch(incarnation, sequence + 1)
            outcome.body_bytes = len(body)
            try:
                if not connection.open:
                    loop = asyncio.get_running_loop()
                    connection = (await loop.create_connection(Connection, work.host, work.port))[1]
                async with asyncio.timeout(ANSWER_S):
                    status, answer = await connection.request(head + b"%d\r\n\r\n" % len(body), body)
            except (OSError, TimeoutError) as error:
                connection.close()
                connection.open = False
                self._count(type(error).__name__, due, repr(error))
                continue
            self._count(str(status), due, "" if status == 200 else answer.decode("utf-8", "replace"))
            if status == 200:
                sequence = msgspec.json.decode(answer, type=TelemetryAck).acknowledged
        connection.close()

    async def _wait(self, at: int) -> None:
        """Ask for newer settings than the registered ones, again and again: nobody changes them."""
        work = self._work
        run_id = work.runs[at][0]
        await asyncio.sleep(max(0.0, work.start + work.offsets[at] - time.monotonic()))
        loop, place = asyncio.get_running_loop(), (work.host, work.port)
        head = (
            f"GET /api/v1/runs/{run_id}/settings?after_revision=0&wait={WAIT_S:g} HTTP/1.1\r\n"
            f"Host: {work.host}:{work.port}\r\nAuthorization: Bearer {work.token}\r\n\r\n"
        ).encode()
        connection = Connection()
        try:
            while True:
                try:
                    if not connection.open:
                        connection = (await loop.create_connection(Connection, *place))[1]
                    async with asyncio.timeout(WAIT_S + ANSWER_S):
                        self.outcome.waits[str((await connection.request(head, b""))[0])] += 1
                except (OSError, TimeoutError) as error:
                    self.outcome.waits[type(error).__name__] += 1
                    connection.close()
                    connection.open = False
                    await asyncio.sleep(1.0)
        finally:
            connection.close()

    def _count(self, answer: str, due: float, error: str) -> None:
        now = time.monotonic()
        self.outcome.latencies.append(now - due)
        if now - due > LATE_S:
            self.outcome.late[int(due - self._work.start)] += 1
        self.outcome.responses[answer] += 1
        self.outcome.last_answer = max(self.outcome.last_answer, now)
        self.outcome.first_error = self.outcome.first_error or error


def send_all(work: Work) -> Outcome:
    """Do it, in a process of its own."""
    allow_many_files()
    return asyncio.run(Agents(work).run())
