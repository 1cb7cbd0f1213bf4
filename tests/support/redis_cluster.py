"""A real Redis Cluster of three primaries on loopback."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

__all__ = ["Cluster", "add_replica", "cluster_of_three"]

SLOTS = 16384


@dataclass
class Cluster:
    """Three primaries on loopback."""

    folder: Path
    ports: list[int] = field(default_factory=list)
    buses: list[int] = field(default_factory=list)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its address, by all three."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def node(self, port: int) -> redis.Redis:
        """A client of one primary."""
        return redis.Redis(port=port, protocol=2)

    def holder(self, key: str) -> int:
        """The port of the primary that holds a key."""
        slot = key_slot(key.encode())
        return self.ports[slot * 3 // SLOTS]

    def sizes(self) -> list[int]:
        """How many keys each primary holds."""
        with contextlib.ExitStack() as stack:
            return [int(stack.enter_context(self.node(port)).dbsize()) for port in self.ports]

    def name(self, port: int) -> bytes:
        """What the cluster calls a primary."""
        with self.node(port) as node:
            name: bytes = node.execute_command("CLUSTER", "MYID")
            return name

    def kill(self, port: int) -> None:
        """End one primary."""
        process = self.processes.pop(port)
        process.kill()
        process.wait()


@contextlib.contextmanager
def cluster_of_three(folder: Path) -> Iterator[Cluster]:
    binary = shutil.which("redis-server")
    assert binary, "these tests need redis-server: apt-get install redis-server"
    cluster = Cluster(folder)
    with contextlib.ExitStack() as stack:
        free = _free_ports(6)
        for port, bus in zip(free[:3], free[3:], strict=True):
            cluster.processes[port] = _started(binary, folder, port, bus)
            stack.callback(_end, cluster.processes[port])
            cluster.ports.append(port)
            cluster.buses.append(bus)
        nodes = [stack.enter_context(cluster.node(port)) for port in cluster.ports]
        for at, node in enumerate(nodes):
            _until(lambda node=node: node.ping())
            first, last = -(-SLOTS * at // 3), -(-SLOTS * (at + 1) // 3) - 1
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        _until(lambda: _met(nodes[0], list(zip(cluster.ports, cluster.buses, strict=True))))
        for node in nodes:
            _until(lambda node=node: _whole(node))
        yield cluster


@contextlib.contextmanager
def add_replica(cluster: Cluster, primary: int) -> Iterator[int]:
    """A node that takes over when this primary dies; gives its port."""
    binary = shutil.which("redis-server")
    assert binary
    port, bus = _free_ports(2)
    process = _started(binary, cluster.folder, port, bus)
    try:
        name = cluster.name(primary)
        with cluster.node(port) as node, cluster.node(primary) as known:
            _until(node.ping)
            at = cluster.ports.index(primary)
            node.execute_command("CLUSTER", "MEET", "127.0.0.1", primary, cluster.buses[at])

            def follows() -> bool:
                with contextlib.suppress(redis.ResponseError):  # it does not know that primary yet
                    node.execute_command("CLUSTER", "REPLICATE", name)
                return bool(known.info("replication")["connected_slaves"] == 1)

            _until(follows)
        yield port
    finally:
        _end(process)


def _started(binary: str, folder: Path, port: int, bus: int) -> subprocess.Popen[bytes]:
    home = folder / str(port)
    home.mkdir()
    options = {
        "port": port, "cluster-port": bus, "bind": "127.0.0.1", "dir": home, "save": "",
        "cluster-enabled": "yes", "cluster-node-timeout": 1000, "logfile": "log",
        "cluster-require-full-coverage": "no",
    }  # fmt: skip
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    return subprocess.Popen([binary, *arguments])


def _free_ports(number: int) -> list[int]:
    """Below those that the kernel gives to whoever connects: these could be gone before the servers have them."""
    found: list[int] = []
    with contextlib.ExitStack() as probes:  # all are held until the last is found, or one might be found twice
        while len(found) < number:
            probe = probes.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", random.randrange(15_000, 32_000)))
                found.append(probe.getsockname()[1])
    return found


def _met(node: redis.Redis, addresses: list[tuple[int, int]]) -> bool:
    """Whether a node knows all; introduces them again where a handshake on a busy machine came to nothing."""
    if f"cluster_known_nodes:{len(addresses)}".encode() not in _info(node):
        for port, bus in addresses[1:]:
            node.execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)  # type: ignore[no-untyped-call] # redis-py's
    return _whole(node)


def _whole(node: redis.Redis) -> bool:
    info = _info(node)
    return b"cluster_state:ok" in info and f"cluster_slots_ok:{SLOTS}".encode() in info


def _info(node: redis.Redis) -> bytes:
    info: bytes = node.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call] # redis-py's own
    return info


def _until(look: Any, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(redis.ConnectionError):
            if look():
                return
        assert time.monotonic() < deadline, "the cluster did not come up"
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
