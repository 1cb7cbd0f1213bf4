"""The publisher against servers that refuse, hang up, forget, and come back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steadynorm.mailbox import Mailbox
from steadynorm.recording.recorder import Recorder
from steadynorm.stabilizer.statistics import RING_COLUMNS
from steadynorm.transport import http_client, publisher
from steadynorm.transport.backoff import Backoff
from steadynorm.transport.http_client import HttpClient
from steadynorm.transport.publisher import Publisher
from steadynorm.transport.send_buffer import SendBuffer
from steadynorm.transport.settings_poller import SettingsPoller
from steadynorm.transport.status_log import MAX_REJECTIONS
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import Parameter, RunEnd, RunFinish, RunRegistration

if TYPE_CHECKING:
    from tests.support.agent import Response, StubServer

Until = Callable[[Callable[[], object]], None]
REFUSED = b'{"title": "No", "status": 0, "detail": "because"}'


class Sender:
    """A publisher with a recorder that is fed by hand, and short waits."""

    def __init__(self, url: str) -> None:
        mailbox = Mailbox(Settings())
        self.recorder = Recorder([1], [torch.device("cpu")])
        self.publisher = Publisher(
            url,
            HttpClient(url),
            SettingsPoller(HttpClient(url), mailbox, Backoff(0.001, 0.02)),
            RunRegistration(name="r", run_id="r-1", instance="i", parameters=[Parameter("p", (1,), "float32")]),
            self.recorder,
            mailbox,
            SendBuffer(10**7, 1),
            Backoff(0.001, 0.02),
        )
        self.step = 0
        self._rows = torch.zeros(1, len(RING_COLUMNS))
        self.publisher.start()

    def take_steps(self, count: int, **values: float) -> None:
        """values: of RING_COLUMNS."""
        rows = self._rows.clone()
        for name, value in values.items():
            rows[:, RING_COLUMNS.index(name)] = value
        for _ in range(count):
            self.step += 1
            self.recorder.put(0, self.step, self.step, rows, 0.1)

    def settled(self) -> bool:
        counters = self.publisher.counters
        return counters.produced == counters.acknowledged + counters.dropped + counters.buffered

    def deliver(self) -> None:
        """Until everything is stored."""
        end = time.monotonic() + 20
        while not self.publisher.flush(1.0):
            assert self.settled()
            assert time.monotonic() < end, "it was not delivered in time"


@pytest.fixture
def sender(stub: StubServer) -> Iterator[Sender]:
    """Not registered yet: nothing was recorded."""
    sender = Sender(stub.url)
    yield sender
    stub.fault = lambda method, path, body: None
    sender.publisher.close(RunFinish(RunEnd.FINISHED))


FAULTS = ("none", "none", "500", "503", "429", "hang up", "answer lost", "run lost")


class ErrorState:
    """One fault for each request of the publisher; none when they are used up."""

    def __init__(self, stub: StubServer, plan: list[str]) -> None:
        self.plan, self.stub = plan, stub
        self.stored: list[int] = []  # in runs that the server lost

    def __call__(self, method: str, path: str, body: bytes) -> Response | None:
        if method == "GET" or not self.plan:
            return None
        fault = self.plan.pop()
        if fault == "hang up":
            raise ConnectionAbortedError
        if fault == "answer lost":
            self.stub.serve(f"/api/v1{path}", body)
            return 500, b"", {}
        if fault == "run lost":
            if (run := self.stub.runs.pop("r-1", None)) is not None:
                self.stored += run.steps
            return None
        return None if fault == "none" else (int(fault), b"", {"Retry-After": "0"})


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 20), st.lists(st.sampled_from(FAULTS), max_size=4)), min_size=1, max_size=4))
def test_whatever_fails_for_a_while_every_step_arrives_once(
    stub: StubServer, caplog: pytest.LogCaptureFixture, phases: list[tuple[int, list[str]]]
) -> None:
    caplog.set_level(logging.CRITICAL, logger="steadynorm")
    stub.runs.clear()
    sender = Sender(stub.url)
    lost: list[int] = []
    for steps, plan in phases:
        faults = ErrorState(stub, list(plan))
        stub.fault = faults
        sender.take_steps(steps)
        sender.deliver()
        lost += faults.stored
        assert sender.settled()
    stub.fault = lambda method, path, body: None
    sender.publisher.close(RunFinish(RunEnd.FINISHED))
    kept = stub.run.steps
    assert kept == sorted(set(kept))
    assert sorted({*lost, *kept}) == list(range(1, sender.step + 1))
    counters = sender.publisher.counters
    assert (counters.buffered, counters.dropped, counters.errors) == (0, 0, 0)
    assert stub.run.finish is not None


def test_a_resent_batch_is_byte_for_byte_the_same(stub: StubServer, sender: Sender) -> None:
    stub.fault = ErrorState(stub, ["answer lost", "500", "hang up", "none"])
    sender.take_steps(3)
    sender.deliver()
    bodies = [body for _, path, body, _ in stub.requests if path.endswith("/telemetry")]
    assert len(bodies) >= 4
    assert len(set(bodies[:4])) == 1
    assert stub.run.steps == [1, 2, 3]


def test_retry_after_is_respected(stub: StubServer, sender: Sender) -> None:
    times: list[float] = []

    def busy(method: str, path: str, body: bytes) -> Response | None:
        times.append(time.monotonic())
        return (503, b"", {"Retry-After": "1"}) if len(times) == 1 else None

    stub.fault = busy
    sender.take_steps(1)
    sender.publisher.wake()
    stub.wait_for(lambda: len(times) > 1)
    assert times[1] - times[0] >= 1.0  # its own wait would be a thousandth of that


def test_an_old_incarnation_registers_again(stub: StubServer, sender: Sender) -> None:
    sender.take_steps(2)
    sender.deliver()
    with stub.changed:  # another agent took the run over, and ended
        run = stub.runs["r-1"]
        run.registrations.append(RunRegistration(name="r", run_id="r-1", instance="other"))
        run.incarnation, run.acknowledged = 2, 0
    sender.take_steps(2)
    sender.deliver()
    assert stub.run.steps == [1, 2, 3, 4]
    assert [batch.incarnation for batch in stub.run.batches] == [1, 3]


def test_a_next_incarnation_whose_registration_fails_is_registered_later(stub: StubServer, sender: Sender) -> None:
    sender.take_steps(2)
    sender.deliver()
    stub.fault = ErrorState(stub, ["503"])
    sender.publisher.restart_from(2, "next", 0)
    sender.take_steps(2)
    sender.deliver()
    assert [each.instance for each in stub.run.registrations] == ["i", "next"]
    assert [batch.incarnation for batch in stub.run.batches] == [1, 2]


def test_two_processes_that_fight_for_a_run_do_not_fight_for_ever(
    stub: StubServer, sender: Sender, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    stub.fault = lambda method, path, body: (409, REFUSED, {}) if path.endswith("/telemetry") else None
    sender.publisher._connection_log._rejections = MAX_REJECTIONS  # the last line of all is written nevertheless
    sender.take_steps(2)
    sender.publisher.wake()
    until(lambda: "repeatedly takes over this run" in caplog.text)
    assert f"nothing more is sent to {stub.url}" in caplog.text
    asked = len(stub.requests)
    sender.publisher.flush(1.0)
    assert [path for _, path, _, _ in stub.requests[asked:] if path.endswith("/telemetry")] == []
    assert sender.publisher.counters.buffered == 3


@pytest.mark.parametrize("status", [401, 403, 422])
def test_a_refusal_is_said_once_and_the_data_is_kept(
    stub: StubServer, sender: Sender, status: int, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    stub.fault = lambda method, path, body: (status, REFUSED, {})
    sender.take_steps(5)
    sender.publisher.wake()
    stub.wait_for(lambda: len(stub.requests) > 3)
    said = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1
    assert f"{status} No: because" in said[0]
    stub.fault = lambda method, path, body: None
    sender.deliver()
    assert stub.run.steps == [1, 2, 3, 4, 5]


def test_a_server_of_another_version_ends_the_sending(
    stub: StubServer, sender: Sender, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    detail = b'{"title": "Unsupported", "status": 400, "detail": "schema version 1 is old. Upgrade the agent."}'
    stub.fault = lambda method, path, body: (400, detail, {})
    sender.take_steps(2)
    sender.publisher.wake()
    until(lambda: "nothing more is sent" in caplog.text)
    assert "Upgrade the agent." in caplog.text
    asked = len(stub.requests)
    sender.take_steps(2)
    assert not sender.publisher.flush(2.0)
    assert len(stub.requests) == asked


def test_something_else_at_the_address_is_named(
    stub: StubServer, sender: Sender, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    stub.fault = lambda method, path, body: (404, b"<html>", {})
    sender.take_steps(1)
    sender.publisher.wake()
    until(lambda: "there is no steadynorm server at this address" in caplog.text)
    stub.fault = lambda method, path, body: (200, b"<html>welcome</html>", {})
    until(lambda: "is this another server?" in caplog.text)


@pytest.mark.slow
def test_more_steps_than_a_ring_holds_arrive_a_half_at_a_time(stub: StubServer, sender: Sender) -> None:
    for _ in range(10):
        sender.take_steps(sender.recorder.capacity // 2)
        assert sender.publisher.flush(20)
    assert sender.publisher.counters.dropped == 0
    assert len(stub.run.steps) == 5 * sender.recorder.capacity


def test_at_the_pace_of_its_server_a_spike_and_the_end_are_sent_at_once_and_nothing_else_is(
    stub: StubServer, sender: Sender, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.pace_s = 3600.0
    monkeypatch.setattr(http_client, "LONGEST_PACE_S", 3600.0)
    monkeypatch.setattr(publisher, "PERIOD_S", 0.01)
    sender.publisher.period_s = 0.01  # between two looks at the recorder
    sender.take_steps(5)
    sender.deliver()
    batches = len(stub.run.batches)
    sender.take_steps(40)
    until(lambda: sender.publisher.counters.buffered > 30)  # looked at, and held back
    assert len(stub.run.batches) == batches
    sender.take_steps(1, raw_norm=50.0, spike_ratio=50.0)
    sender.take_steps(1)  # the newest step waits for its loss
    stub.wait_for(lambda: 46 in stub.run.steps)
    monkeypatch.setattr(publisher, "_HELD_BACK_BYTES", 0)  # more than that waits
    sender.take_steps(20)
    stub.wait_for(lambda: 66 in stub.run.steps)
