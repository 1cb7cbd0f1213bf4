"""An attack on a real server, with good clients beside it: what it answers, what changes, what it costs.

    python benchmarks/malformed.py [--requests 10000] [--rate 150] [--sockets 200] [--clients 8]

Good clients send a batch of 10 steps and read their run, four times a second each, first alone and then beside the
attack, in turns: `--requests` malformed requests (`malformed_requests.py`) at `--rate` a second, and `--sockets`
connections that drip a byte of their head or body now and then and are opened anew when the server closes them.

Prints one JSON object: the answers by status ("cut off": a body beyond the limit whose rest the server did not take);
whether the attacked run and the list of runs are byte for byte what they were in the store; the server's memory; the
good clients' p99 alone and beside the attack.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import redis
import urllib3
from malformed_requests import Malformed, malformed

from steadynorm_contract.codec import encode_batch, encode_json
from steadynorm_contract.telemetry import (
    MAX_BATCH_BYTES,
    SCALAR_COLUMNS,
    Parameter,
    RunRegistration,
    StepScalars,
    TelemetryBatch,
)
from steadynorm_server.runtime.embedded_redis import embedded_redis_server
from steadynorm_server.runtime.process import die_with_parent

VICTIM = "victim-1"
TABLE = [Parameter("embed.weight", (16, 4), "float32"), Parameter("head.weight", (4, 16), "float32")]


@contextmanager
def served(store_url: str, home: Path) -> Iterator[tuple[int, str, str]]:
    """A server process over that store: its id, its address and its token."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STEADYNORM_")}
    environment |= {"STEADYNORM_HOME": str(home), "REDIS_URL": store_url, "STEADYNORM_STALLED_AFTER_S": "86400"}
    with (home / "server.log").open("wb") as log:
        command = [sys.executable, "-m", "steadynorm_cli", "server", "--port", "0"]
        with_us = partial(die_with_parent, os.getpid())
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log, preexec_fn=with_us)
        try:
            while not (home / "server.json").exists():
                assert process.poll() is None, (home / "server.log").read_text()
                time.sleep(0.05)
            address = json.loads((home / "server.json").read_bytes())["server"]
            yield process.pid, address, (home / "token").read_text("ascii").strip()
        finally:
            process.terminate()
            process.wait(30)


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident memory of a process now, and at its peak."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["VmHWM"].split()[0]) / 1024


def dump(repository: redis.Redis) -> dict[object, object]:
    """What the store holds of the attacked run, and which runs there are."""
    keys = repository.keys(f"steadynorm:{{{VICTIM}}}:*")
    found: dict[object, object] = {key: repository.dump(key) for key in keys}
    found[b"runs"] = sorted(repository.keys("steadynorm:{*}:run"))
    found[b"index"] = repository.zrange("steadynorm:runs", 0, -1)
    return found


class GoodClient:
    """An agent that sends 10 steps and a person who looks at its run."""

    def __init__(self, number: int, address: str, token: str) -> None:
        self._run, self._sequence = f"good-{number}", 0
        self._root = f"{address}/api/v1/runs"
        self._pool = urllib3.PoolManager(retries=False, headers={"Authorization": f"Bearer {token}"})
        registration = RunRegistration(name=self._run, run_id=self._run, parameters=TABLE)
        assert self._pool.request("POST", self._root, body=encode_json(registration)).status in (200, 201)

    def work(self, seconds: float, pause_s: float = 0.25) -> list[float]:
        """Seconds that each request took."""
        took: list[float] = []
        until = time.monotonic() + seconds
        next_turn = time.monotonic() + random.random() * pause_s
        while time.monotonic() < until:
            time.sleep(max(0.0, next_turn - time.monotonic()))
            next_turn += pause_s
            self._sequence += 1
            took += [self._timed("POST", f"/{self._run}/telemetry", self._batch()), self._timed("GET", f"/{self._run}")]
        return took

    def _timed(self, method: str, path: str, body: bytes | None = None) -> float:
        began = time.perf_counter()
        status = self._pool.request(method, self._root + path, body=body).status
        assert status == 200, (method, path, status)
        return time.perf_counter() - began

    def _batch(self) -> bytes:
        steps = list(range(self._sequence * 10, self._sequence * 10 + 10))
        times, data = struct.pack("<10d", *[1e9] * 10), struct.pack("<f", 1.0) * 10 * len(SCALAR_COLUMNS)
        scalars = StepScalars(steps, times, data)
        return encode_batch(TelemetryBatch(incarnation=1, sequence=self._sequence, scalars=scalars))


class Attack:
    """Malformed requests at a rate, and connections that only drip, until it is ended."""

    def __init__(self, address: str, token: str, rate: float, sockets: int) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        self._place, self._token, self._rate, self._sockets = (host, int(port)), token, rate, sockets
        self.responses: Counter[str] = Counter()
        self.reopened = 0

    def run(self, requests: list[Malformed]) -> Attack:
        """Send them all, from four connections, with the dripping ones beside. Returns itself, with what came of it."""
        done, lanes = threading.Event(), 4
        began = time.monotonic()
        with ThreadPoolExecutor(lanes + 1) as pool:
            dripping = pool.submit(lambda: asyncio.run(self._drip(done)))
            sending = [pool.submit(self._send, requests[lane::lanes], lane, lanes, began) for lane in range(lanes)]
            for lane in sending:
                lane.result()
            done.set()
            dripping.result()
        return self

    def _send(self, requests: list[Malformed], lane: int, lanes: int, began: float) -> None:
        connection = http.client.HTTPConnection(*self._place, timeout=30)
        for number, sent in enumerate(requests):
            time.sleep(max(0.0, began + (number * lanes + lane) / self._rate - time.monotonic()))
            for attempt in range(2):  # a connection that was closed after the answer before is no missing answer
                try:
                    headers = {"Authorization": f"Bearer {self._token}", **sent.headers}
                    connection.request(sent.method, f"/api/v1{sent.path}", sent.body, headers)
                    answer = connection.getresponse()
                    answer.read()
                    self.responses[str(answer.status)] += 1
                    break
                except (OSError, http.client.HTTPException):
                    connection.close()
                    if attempt:
                        self.responses["cut off" if len(sent.body) > MAX_BATCH_BYTES else "none"] += 1
        connection.close()

    async def _drip(self, done: threading.Event) -> None:
        await asyncio.gather(*(self._drip_one(number, done) for number in range(self._sockets)))

    async def _drip_one(self, number: int, done: threading.Event) -> None:
        head = b"POST /api/v1/runs HTTP/1.1\r\nHost: x\r\nX-A: "
        if number % 2:
            head = b"POST /api/v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: 9999\r\n\r\n"
            head = head.replace(b"%b", self._token.encode())
        while not done.is_set():
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(*self._place, family=socket.AF_INET)
                writer.write(head)
                closed = asyncio.ensure_future(reader.read())
                while not done.is_set() and not closed.done():
                    await asyncio.wait([closed], timeout=1.0)
                    writer.write(b"a")
                self.reopened += not done.is_set()
                writer.close()
                closed.cancel()


def p99_ms(seconds: list[float]) -> float:
    """The 99th percentile in milliseconds."""
    return round(sorted(seconds)[int(len(seconds) * 0.99)] * 1000, 1)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=150.0)
    parser.add_argument("--sockets", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    requests = list(malformed(VICTIM, given.requests))
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded_redis_server(Path(folder) / "redis") as url,
        served(url, Path(folder)) as (pid, address, token),
        redis.Redis.from_url(url, protocol=2) as repository,
        ThreadPoolExecutor(given.clients) as pool,
        ProcessPoolExecutor(
            1, get_context("spawn"), die_with_parent, (os.getpid(),)
        ) as processes,  # or the attack would hold the good clients up here
    ):
        registration = RunRegistration(name="victim", run_id=VICTIM, parameters=TABLE)
        headers = {"Authorization": f"Bearer {token}"}
        made = urllib3.request("POST", f"{address}/api/v1/runs", body=encode_json(registration), headers=headers)
        assert made.status == 201
        clients = [GoodClient(number, address, token) for number in range(given.clients)]
        for each in [pool.submit(client.work, 3.0) for client in clients]:
            each.result()  # warm
        before, (rss, _) = dump(repository), memory_mb(pid)
        attack = Attack(address, token, given.rate, given.sockets)
        alone: list[float] = []
        beside: list[float] = []
        turns = 4
        for turn in range(turns):
            share = requests[turn::turns]
            seconds = len(share) / given.rate
            for each in [pool.submit(client.work, seconds) for client in clients]:
                alone += each.result()
            raid = processes.submit(attack.run, share)
            for each in [pool.submit(client.work, seconds) for client in clients]:
                beside += each.result()
            attack = raid.result()
        after, (now, peak) = dump(repository), memory_mb(pid)
    ratio = p99_ms(beside) / p99_ms(alone)
    result = {
        "requests": sum(attack.responses.values()),
        "answers": dict(sorted(attack.responses.items())),
        "of_500": attack.responses["500"],
        "unchanged": before == after,
        "memory_mb": {
            "before": round(rss, 1),
            "after": round(now, 1),
            "peak": round(peak, 1),
            "grown": round(now - rss, 1),
        },
        "half_open": {"sockets": given.sockets, "closed_by_the_server": attack.reopened},
        "good_clients": {
            "requests": len(beside),
            "p99_alone_ms": p99_ms(alone),
            "p99_beside_ms": p99_ms(beside),
            "ratio": round(ratio, 2),
        },
        "holds": not attack.responses["500"] + attack.responses["none"]
        and before == after
        and peak - rss <= 50
        and ratio <= 2,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
