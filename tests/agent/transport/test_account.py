"""An exception at any call between recording a step and sending it loses no count.

Every function of the sending path is made to raise at its entry, once: in one run for each line that calls it, and
each fault of the server's around it. The runs meet a spike, an outage, a lost response, batches that are rejected,
and a server that forgot the run.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest
import torch

import steadynorm
from steadynorm.mailbox import Mailbox
from steadynorm.recording.recorder import Recorder
from steadynorm.stabilizer.statistics import RING_COLUMNS
from steadynorm.transport import send_buffer
from steadynorm.transport.backoff import Backoff
from steadynorm.transport.http_client import HttpClient, _error
from steadynorm.transport.publisher import Publisher
from steadynorm.transport.send_buffer import SendBuffer
from steadynorm.transport.settings_poller import SettingsPoller
from steadynorm_contract.codec import decode_batch
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import (
    AppliedReport,
    Parameter,
    RevisionOutcome,
    RunRegistration,
)

if TYPE_CHECKING:
    from tests.support.agent import Response, StubServer, Training

SENDING_PATH = ("steadynorm.transport.", "steadynorm.recording.", "steadynorm.mailbox", "steadynorm_contract.codec")
CATCHING = ("_cycle", "_handle")  # what catches exceptions, and around which there is the thread's loop only
REJECTED = ("413", "422")
STEPS = 60
TABLE = [Parameter(name, (1,), "float32") for name in "abc"]


class InjectedError(Exception):
    """Raised by the test."""


class DirectClient(HttpClient):
    """Calls the server in this thread instead of over HTTP."""

    def __init__(self, stub: StubServer) -> None:
        super().__init__(stub.url)
        self._stub = stub

    def _request(
        self, method: str, path: str, body: bytes | None, kind: str | None, timeout_s: float, *, encoding: str = ""
    ) -> bytes:
        with untraced():
            status, data, _ = self._stub.respond(method, f"/api/v1{path}", body or b"", {})
        if status in (200, 201, 204):
            return data
        raise _error(status, data, {})


class Sending:
    """A publisher whose cycles the test runs itself, in its own thread."""

    def __init__(self, stub: StubServer, raise_at: int) -> None:
        self.mailbox, self.recorder = Mailbox(Settings()), Recorder([1, 2], [torch.device("cpu")] * 2)
        self.buffer = SendBuffer(10**7, 3)
        self.publisher = Publisher(
            stub.url,
            DirectClient(stub),
            SettingsPoller(DirectClient(stub), self.mailbox),
            RunRegistration(name="r", run_id="r-1", instance="i", detail_every=5, parameters=TABLE),
            self.recorder,
            self.mailbox,
            self.buffer,
            Backoff(0.0, 0.0),
        )
        self.step = 0
        self.calls = 0  # of functions of the sending path
        self.seen: dict[tuple[object, ...], int] = {}  # by cycle, function and caller: the first call
        self.cycles = 0
        self.rejected: set[int] = set()
        self.raise_at = raise_at  # the number of the call that raises; 0: none

    def take_steps(self, count: int) -> None:
        for _ in range(count):
            self.step += 1
            spike = 1e3 if self.step == 20 else 1.0  # in the spike ratio's column
            for index, parameters in enumerate((1, 2)):
                rows = torch.full((parameters, len(RING_COLUMNS)), spike, dtype=torch.float32, device="cpu")
                self.recorder.put(index, self.step, self.step, rows, 0.1)

    def cycle(self, *, flush: bool = False) -> None:
        self.cycles += 1
        self.publisher._flush_asked = flush
        before = sys.gettrace()
        if self.calls < self.raise_at or not self.raise_at:
            sys.settrace(self._trace)
        try:
            self.publisher._cycle()
        finally:
            sys.settrace(before)
        counters = self.buffer.counters
        assert counters.produced == counters.acknowledged + counters.dropped + counters.buffered

    def _trace(self, frame: FrameType, event: str, _: Any) -> None:
        called, module = frame.f_code.co_name, frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith(SENDING_PATH) and called not in CATCHING:
            self.calls += 1
            caller = frame.f_back.f_lineno if frame.f_back else 0
            self.seen.setdefault((self.cycles, module, called, caller), self.calls)
            if self.calls == self.raise_at:
                raise InjectedError

    def flush(self) -> bool:
        """As `Publisher.flush()` for which the test's thread runs the cycle."""
        self.cycle(flush=True)
        return self.publisher.flush(0.0)


@contextmanager
def untraced() -> Iterator[None]:
    """A block of the server's, not the agent's."""
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)


def faults(plan: list[str], stub: StubServer, rejected: set[int]) -> Callable[[str, str, bytes], Response | None]:
    """What the server answers to each batch. rejected: receives the revisions whose reports it rejected once."""

    def respond(method: str, path: str, body: bytes) -> Response | None:
        if not plan or not path.endswith("/telemetry"):
            return None
        if decode_batch(body).scalars is None and plan[0] in REJECTED:  # the agent sends reports alone once
            return None
        fault = plan.pop(0)
        if fault in REJECTED:
            rejected.update(report.revision for report in decode_batch(body).applied)
        if fault == "response lost":
            stub.serve(f"/api/v1{path}", body)
            return 500, b"", {}
        return None if fault == "none" else (int(fault), b"{}", {})

    return respond


def run(stub: StubServer, raise_at: int) -> Sending:
    """Sixty steps in five cycles and the end. Each cycle meets a fault of the server."""
    stub.runs.clear()
    sending = Sending(stub, raise_at)
    stub.fault = faults(
        ["none", "503", "none", "response lost", "none", "413", "none", "422", "404"], stub, sending.rejected
    )
    for _ in range(5):
        sending.take_steps(STEPS // 5)
        sending.mailbox.report(AppliedReport(sending.step, 1, RevisionOutcome.APPLIED, Settings(), 0.0, ""))
        sending.cycle()
    flushed = sending.flush()
    counters = sending.buffer.counters
    assert not flushed or counters.acknowledged == counters.produced - sending.publisher._dropped_before
    for _ in range(6):
        sending.cycle(flush=True)  # whatever was put off is sent by now
    return sending


@pytest.mark.slow
def test_an_exception_at_any_call_of_the_sending_path_loses_no_count(
    stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="steadynorm")
    baseline = run(stub, 0)
    chosen = set(baseline.seen.values())
    assert len(chosen) > 200
    assert baseline.buffer.counters.errors == 0
    assert 20 - 1 in stub.run.row_steps  # the spike was one
    for call in sorted(chosen):
        sending = run(stub, call)
        counters = sending.buffer.counters
        assert counters.errors == 1, call
        assert counters.buffered == 0, call
        stored, stored_rows = stub.run.steps, stub.run.row_steps
        assert len(stored) == len(set(stored)), call
        assert len(stored_rows) == len(set(stored_rows)), call
        # Each record that the server lacks is counted, and each that it has is acknowledged.
        assert counters.acknowledged + counters.dropped == counters.produced, call
        assert STEPS - len(stored) <= counters.dropped, call
        assert counters.acknowledged <= len(stored) + len(stored_rows), call
        # A report that was rejected with its records, and met the exception when it was sent alone, is given up.
        assert {report.revision for report in stub.run.reports} | sending.rejected == {12, 24, 36, 48, 60}, call


def test_flush_is_false_where_records_were_lost_and_true_for_those_that_come_later(
    training: Training, stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    publisher = agent._publisher
    assert publisher is not None
    monkeypatch.setattr(publisher._backoff, "slow_s", lambda: 0.0)
    pack, failures = send_buffer._pack_rows, [InjectedError()]

    def fail_once(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return pack(*args)

    monkeypatch.setattr(send_buffer, "_pack_rows", fail_once)
    for _ in range(50):
        training.step()
    first = agent.flush(20)
    counters = agent.counters
    assert first == (counters.acknowledged == counters.produced)
    assert counters.produced == counters.acknowledged + counters.dropped + counters.buffered >= 50
    training.step()
    assert agent.flush(20)
    assert stub.run.steps == list(range(1, 52))  # nothing was lost: what could not be packed stayed
    agent.close()


def test_flush_is_false_where_collecting_failed(
    training: Training, stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url, detail_every=1000)
    training.step()
    assert agent.flush(20)
    ring, failures = agent._recorder._rings[0], [InjectedError()]  # type: ignore[union-attr]  # there is a server
    read = ring.read

    def fail_once(start: int, stop: int) -> Any:
        if failures:
            raise failures.pop()
        return read(start, stop)

    monkeypatch.setattr(ring, "read", fail_once)
    training.step()
    assert not agent.flush(20)
    assert agent.counters.dropped == 1
    training.step()
    agent.close()
    assert agent.counters.dropped == 1
    assert agent.counters.produced == agent.counters.acknowledged + 1
    assert stub.run.steps == [1, 3]
