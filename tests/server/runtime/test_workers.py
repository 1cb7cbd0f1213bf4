"""Several workers behind one port: alike, replaced when they die, ended together, counted together."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from steadynorm_server.config import ServerConfig
from steadynorm_server.runtime.workers import WorkersError, supervise

WORKERS = 2


def _environment(home: Path) -> dict[str, str]:
    foreign = ("STEADYNORM_", "REDIS_URL", "PROMETHEUS_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**inherited, "STEADYNORM_HOME": str(home)}


def _workers(parent: int) -> set[int]:
    """Process ids of the workers that live."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, _, rest = status.read_text().partition(" (")
            command = (status.parent / "cmdline").read_bytes()
            if int(rest.rpartition(") ")[2].split()[1]) == parent and b"spawn_main" in command:
                found.add(int(pid))
    return found


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def _serving(home: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, "-m", "steadynorm_cli", "server", "--port", "0", "--workers", str(WORKERS), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=_environment(home))
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first.startswith("steadynorm server at http"), first + process.stderr.read()
        token = (home / "token").read_text("ascii").strip()
        headers = {"Authorization": f"Bearer {token}", "Connection": "close"}  # each request meets any of the workers
        with httpx.Client(base_url=first.split()[-1], headers=headers, timeout=20) as client:
            yield process, client
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A server of two workers."""
    with _serving(tmp_path_factory.mktemp("workers")) as found:
        yield found


def _metric(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not in {text}"
    return float(found[1])


def test_a_scrape_of_any_worker_counts_the_requests_of_all(serving: tuple[Any, httpx.Client]) -> None:
    process, client = serving
    name = 'steadynorm_server_request_seconds_count{method="GET",route="/healthz",status="200"}'
    for _ in range(40):
        assert client.get("/healthz").status_code == 200
    counted = [_metric(client.get("/metrics").text, name) for _ in range(10)]
    assert counted == [40] * 10
    text = client.get("/metrics").text
    resident = sum(
        int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) * 1024
        for pid in _workers(process.pid)
    )
    assert _metric(text, "process_resident_memory_bytes") == pytest.approx(resident, rel=0.1)
    assert _metric(text, "steadynorm_server_waiting_requests") == 0


def test_the_metrics_of_workers_are_clean(serving: tuple[Any, httpx.Client]) -> None:
    text = serving[1].get("/metrics").text
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def test_connections_are_spread_over_the_workers(serving: tuple[Any, httpx.Client]) -> None:
    process, client = serving
    workers = _workers(process.pid)
    assert len(workers) == WORKERS
    address = client.base_url.host, client.base_url.port or 0
    with contextlib.ExitStack() as stack:
        before = {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in workers}
        for _ in range(64):
            stack.enter_context(socket.create_connection(address, timeout=5)).sendall(b"GET /healthz HTTP/1.1\r\n")
        _until(lambda: sum(len(os.listdir(f"/proc/{pid}/fd")) - before[pid] for pid in workers) >= 64)
        got = {pid: len(os.listdir(f"/proc/{pid}/fd")) - before[pid] for pid in workers}
    assert all(number > 10 for number in got.values()), got  # of 64 fair coins, one in ten million times not


def test_a_worker_that_dies_is_replaced_and_what_it_counted_stays(serving: tuple[Any, httpx.Client]) -> None:
    process, client = serving
    name = 'steadynorm_server_request_seconds_count{method="GET",route="/healthz",status="200"}'
    client.get("/healthz")
    before, workers = _metric(client.get("/metrics").text, name), _workers(process.pid)
    victim = min(workers)
    os.kill(victim, signal.SIGKILL)
    _until(lambda: victim not in _workers(process.pid) and len(_workers(process.pid)) == WORKERS)
    assert _metric(client.get("/metrics").text, name) >= before
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_however_the_parent_ends_nothing_is_left(tmp_path: Path, ending: signal.Signals) -> None:
    with _serving(tmp_path) as (process, _):
        workers = _workers(process.pid)
        process.send_signal(ending)
        process.communicate(timeout=30)
        _until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers))
    assert process.returncode == {signal.SIGTERM: 0, signal.SIGINT: 0, signal.SIGKILL: -9}[ending]
    assert (tmp_path / "server.json").exists() == (ending == signal.SIGKILL)


def test_a_taken_port_is_not_shared_with_its_owner(serving: tuple[Any, httpx.Client], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "steadynorm_cli", "server", "--workers", "2", "--port"]
    command.append(str(serving[1].base_url.port))
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(tmp_path), timeout=60)
    assert done.returncode != 0
    assert "Stop the process that uses it, or choose another with --port" in done.stderr


def test_workers_that_cannot_start_are_said(tmp_path: Path) -> None:
    work: Any = print  # it returns at once and never says that it is ready
    with pytest.raises(WorkersError, match="worker 1 did not start; the reason is logged above"):
        supervise(work, ServerConfig(data=tmp_path, workers=2), "unix:///nowhere", pytest.fail)
    assert _workers(os.getpid()) == set()
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
