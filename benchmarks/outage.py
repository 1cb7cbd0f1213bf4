"""A server that is gone: an hour's outage at 10 steps a second, simulated at speed, and training beside a black hole.

    python benchmarks/outage.py [--steps 36000] [--parameters 150] [--black-hole-steps 600]

First part: a real publisher, fed by hand, and nobody at the server's address. Every step brings rows of all parameters,
so that the buffer must thin. While the steps come in, the buffer's size and the agent's account are looked at all the
time. Then a real server is started at that address, and what it stores is counted.

Second part: a small training whose server takes connections and never answers, in turns with two trainings without
one: the longest steps of each.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import steadynorm
from steadynorm.mailbox import Mailbox
from steadynorm.recording.recorder import Recorder
from steadynorm.stabilizer.statistics import RING_COLUMNS
from steadynorm.transport.http_client import HttpClient
from steadynorm.transport.publisher import Publisher
from steadynorm.transport.send_buffer import SendBuffer
from steadynorm.transport.settings_poller import SettingsPoller
from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.client import Client
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import Parameter, RunEnd, RunFinish, RunRegistration

CAP_BYTES = 64 * 1024 * 1024
RUN_ID = "outage-0"


class Fed:
    """A publisher whose steps are made up: norms of 1, a spike every 1000 steps."""

    def __init__(self, server: str, parameters: int) -> None:
        mailbox = Mailbox(Settings())
        self.recorder = Recorder([parameters], [torch.device("cpu")])
        self.buffer = SendBuffer(CAP_BYTES, parameters)
        self.publisher = Publisher(
            server,
            HttpClient(server),
            SettingsPoller(HttpClient(server), mailbox),
            RunRegistration(
                name="outage",
                run_id=RUN_ID,
                instance="i",
                parameters=[Parameter(f"p{index}", (8, 8), "float32") for index in range(parameters)],
                detail_every=1,
            ),
            self.recorder,
            mailbox,
            self.buffer,
        )
        self._rows = torch.ones(parameters, len(RING_COLUMNS))
        self.publisher.start()

    def take(self, step: int) -> None:
        self._rows[0, RING_COLUMNS.index("spike_ratio")] = 100.0 if step % 1000 == 0 else 1.0
        self.recorder.put(0, step, step, self._rows, 0.1)
        while 2 * self.recorder.backlog() > self.recorder.capacity:  # a real training is not this fast
            self.publisher.wake()
            time.sleep(0.001)

    def check(self) -> None:
        counters = self.publisher.counters
        if counters.produced != counters.acknowledged + counters.dropped + counters.buffered:
            raise SystemExit(f"the account does not add up: {counters}")
        if self.buffer.waiting_bytes > CAP_BYTES:
            raise SystemExit(f"the buffer is over its cap: {self.buffer.waiting_bytes}")


def hour(steps: int, parameters: int) -> None:
    """The outage, and what is there afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STEADYNORM_HOME"] = folder  # where agent and server find one another's token
        fed = Fed(f"http://127.0.0.1:{port}", parameters)
        began, largest, looks = time.monotonic(), 0, 0
        for step in range(1, steps + 1):
            fed.take(step)
            if step % 10 == 0:
                fed.check()
                looks, largest = looks + 1, max(largest, fed.buffer.waiting_bytes)
        print(f"{steps} steps of {parameters} parameters in {time.monotonic() - began:.1f} s, {looks} looks")
        print(f"  largest buffer {largest / 2**20:.1f} MiB of {CAP_BYTES / 2**20:.0f}; {fed.publisher.counters}")
        with LocalStack(Path(folder), port=port, dashboard=False) as stack:
            began = time.monotonic()
            while not fed.publisher.flush(1.0):
                fed.check()
                if time.monotonic() - began > 240:
                    raise SystemExit(f"not delivered in 240 s: {fed.publisher.counters}")
            took = time.monotonic() - began
            fed.publisher.close(RunFinish(RunEnd.FINISHED))
            fed.check()
            client = Client(stack.server, (Path(folder) / "token").read_text("ascii").strip())
            detail = client.run(RUN_ID)
            series = client.series(RUN_ID, ["raw_norm"], points=4000).series["raw_norm"]
        print(f"  delivered {took:.1f} s after the server came (its back-off is up to 30 s): {fed.publisher.counters}")
        print(
            f"  the server counts {detail.counters.steps} steps, its series {sum(series.count)}, the last {detail.step}"
        )
        if not detail.counters.steps == sum(series.count) == detail.step == steps:
            raise SystemExit("not every step arrived once")


@contextmanager
def black_hole() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []
        closing = threading.Event()
        server.settimeout(0.2)

        def accept() -> None:
            while not closing.is_set():
                with contextlib.suppress(TimeoutError):
                    kept.append(server.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        closing.set()
        thread.join()
        for connection in kept:
            connection.close()


class Training:
    """A small model; server None: the stabilizer alone works."""

    def __init__(self, server: str | None) -> None:
        torch.manual_seed(0)
        layers = [torch.nn.Sequential(torch.nn.Linear(128, 128), torch.nn.Tanh()) for _ in range(8)]
        self.model = torch.nn.Sequential(*layers)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.agent = steadynorm.attach(self.model, self.optimizer, server=server)
        self.times: list[float] = []

    def block(self, steps: int) -> None:
        inputs = torch.randn(64, 128)
        for _ in range(steps):
            began = time.perf_counter()
            loss = self.model(inputs).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.agent.log(loss=loss)
            self.times.append(time.perf_counter() - began)


def beside_a_black_hole(steps: int) -> None:
    """Longest steps, in turns."""
    with black_hole() as server:
        trainings = {"black hole": Training(server), "control": Training(None), "control again": Training(None)}
        for each in trainings.values():
            each.block(50)
            each.times.clear()
        for round_ in range(30):
            turn = list(trainings.values())
            for each in turn[round_ % 3 :] + turn[: round_ % 3]:
                each.block(steps)
        for label, each in trainings.items():
            times = sorted(1000 * seconds for seconds in each.times)
            print(
                f"  {label:<14} {len(times)} steps: median {statistics.median(times):.2f} ms, "
                f"99.9 % {times[int(0.999 * len(times))]:.2f} ms, longest {times[-1]:.2f} ms"
            )
            each.agent.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=36_000)
    parser.add_argument("--parameters", type=int, default=150)
    parser.add_argument("--black-hole-steps", type=int, default=100, help="in each of 30 rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("steadynorm").setLevel(logging.ERROR)  # that the server is gone is meant
    hour(options.steps, options.parameters)
    print("training whose server takes connections and never answers")
    beside_a_black_hole(options.black_hole_steps)


if __name__ == "__main__":
    main()
