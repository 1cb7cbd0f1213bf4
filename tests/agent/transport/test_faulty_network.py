"""benchmarks/faults in short, with the real publisher: whatever the network does to its steps, they arrive once."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import torch

from steadynorm.mailbox import Mailbox
from steadynorm.recording.recorder import Recorder
from steadynorm.stabilizer.statistics import RING_COLUMNS
from steadynorm.transport import publisher as publishing
from steadynorm.transport.backoff import Backoff
from steadynorm.transport.http_client import HttpClient
from steadynorm.transport.publisher import Publisher
from steadynorm.transport.send_buffer import SendBuffer
from steadynorm.transport.settings_poller import SettingsPoller
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import Parameter, RunEnd, RunFinish, RunRegistration

if TYPE_CHECKING:
    from tests.support.agent import StubServer


class Network:
    """A FaultyNetwork before a server, in a thread of its own."""

    def __init__(self, kind: Any, server: str) -> None:
        at = urlsplit(server)
        self._loop = asyncio.new_event_loop()
        self._network = kind([(at.hostname, at.port)], trickle_s=0.02)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._wait(self._network.__aenter__())
        self.url = f"http://127.0.0.1:{self._network.port}"

    def become(self, fault: str) -> None:
        async def switch() -> None:
            self._network.fault = fault

        self._wait(switch())

    def close(self) -> None:
        self._wait(self._network.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    def _wait(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)


@pytest.fixture
def network(root: Path, stub: StubServer) -> Iterator[Network]:
    """Passes everything on, until it is told otherwise."""
    sys.path.insert(0, str(root / "benchmarks" / "faults"))
    try:
        from faulty_network import FaultyNetwork
    finally:
        sys.path.remove(str(root / "benchmarks" / "faults"))
    made = Network(FaultyNetwork, stub.url)
    yield made
    made.close()


@pytest.mark.parametrize("fault", ["black hole", "reset", "trickle", "garbage"])
def test_what_the_network_did_to_it_is_sent_again_and_is_there_once(
    fault: str,
    network: Network,
    stub: StubServer,
    until: Callable[[Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publishing, "READ_TIMEOUT_S", 0.2)
    mailbox, recorder = Mailbox(Settings()), Recorder([1], [torch.device("cpu")])
    table = [Parameter("p", (1,), "float32")]
    publisher = Publisher(
        network.url,
        HttpClient(network.url),
        SettingsPoller(HttpClient(network.url), mailbox, Backoff(0.001, 0.02)),
        RunRegistration(name="r", run_id="r-1", instance="i", parameters=table),
        recorder,
        mailbox,
        SendBuffer(10**7, 1),
        Backoff(0.001, 0.02),
    )
    rows, step = torch.zeros(1, len(RING_COLUMNS)), 0

    def take_steps(count: int) -> None:
        nonlocal step
        for _ in range(count):
            step += 1
            recorder.put(0, step, step, rows, 0.1)
        publisher.wake()

    failures: list[str] = []
    failed = publisher._connection_log.failed

    def note(error: Any, **options: Any) -> None:
        failures.append(str(error))
        failed(error, **options)

    monkeypatch.setattr(publisher._connection_log, "failed", note)
    publisher.start()
    take_steps(3)
    until(lambda: publisher.flush(1.0))
    network.become(fault)
    take_steps(3)
    until(lambda: len(failures) >= 2)
    take_steps(3)
    network.become("pass")
    until(lambda: publisher.flush(1.0))
    counters = publisher.counters
    assert (counters.acknowledged, counters.dropped, counters.buffered) == (counters.produced, 0, 0)
    publisher.close(RunFinish(RunEnd.FINISHED))
    assert stub.run.steps == list(range(1, 10))
