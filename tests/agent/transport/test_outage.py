"""A long outage in small: benchmarks/outage.py is the same at its full hour, with the real server."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest
import torch

from steadynorm.mailbox import Mailbox
from steadynorm.recording import ring_buffer
from steadynorm.recording.recorder import Recorder
from steadynorm.stabilizer.statistics import RING_COLUMNS
from steadynorm.transport.backoff import Backoff
from steadynorm.transport.http_client import HttpClient
from steadynorm.transport.publisher import Publisher
from steadynorm.transport.send_buffer import SendBuffer
from steadynorm.transport.settings_poller import SettingsPoller
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import Parameter, RunEnd, RunFinish, RunRegistration

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.agent import StubServer

STEPS, PARAMETERS = 4000, 20
CAP_BYTES = 1024 * 1024  # scalars of all steps fit; rows of all steps are twice that


def test_through_a_long_outage_the_buffer_keeps_its_cap_and_every_steps_scalars_arrive_once(
    stub: StubServer,
    until: Callable[[Callable[[], object]], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ring_buffer, "MAX_STEPS", 1024)  # a ring that comes round
    caplog.set_level(logging.ERROR, logger="steadynorm")
    mailbox, recorder = Mailbox(Settings()), Recorder([PARAMETERS], [torch.device("cpu")])
    buffer = SendBuffer(CAP_BYTES, PARAMETERS)
    table = [Parameter(f"p{index}", (1,), "float32") for index in range(PARAMETERS)]
    publisher = Publisher(
        stub.url,
        HttpClient(stub.url),
        SettingsPoller(HttpClient(stub.url), mailbox, Backoff(0.001, 0.02)),
        RunRegistration(name="r", run_id="r-1", instance="i", parameters=table, detail_every=1),
        recorder,
        mailbox,
        buffer,
        Backoff(0.001, 0.02),
    )
    stub.fault = lambda method, path, body: (503, b"", {})
    publisher.start()
    sizes: list[int] = []
    watching = threading.Event()

    def watch() -> None:  # another thread's view: the account must add up at any moment, not between two steps only
        while not watching.wait(0.0005):
            counters = publisher.counters
            assert counters.produced == counters.acknowledged + counters.dropped + counters.buffered
            sizes.append(buffer.waiting_bytes)

    watcher = threading.Thread(target=watch)
    watcher.start()
    rows = torch.ones(PARAMETERS, len(RING_COLUMNS))
    for step in range(1, STEPS + 1):
        recorder.put(0, step, step, rows, 0.1)
        if 2 * recorder.backlog() > recorder.capacity:
            publisher.wake()
            until(lambda: 2 * recorder.backlog() <= recorder.capacity)
    publisher.flush(20)
    assert publisher.counters.acknowledged == 0
    stub.fault = lambda method, path, body: None
    until(lambda: publisher.flush(1.0))
    watching.set()
    watcher.join()
    publisher.close(RunFinish(RunEnd.FINISHED))
    assert stub.run.steps == list(range(1, STEPS + 1))
    assert 0 < len(stub.run.row_steps) < STEPS
    assert len(set(stub.run.row_steps)) == len(stub.run.row_steps)
    assert CAP_BYTES / 2 < max(sizes) <= CAP_BYTES
    counters = publisher.counters
    assert counters.produced == 2 * STEPS == counters.acknowledged + counters.dropped
    assert counters.dropped == STEPS - len(stub.run.row_steps)
