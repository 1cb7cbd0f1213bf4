"""Debian's redis-server by TCP, one to oneself."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from steadynorm_cli.ports import choose_port


def content(client: Any) -> dict[bytes, object]:
    """All that a store holds, by key. Hashes and sets by their fields: a large one moves them about when it is read."""
    of: dict[bytes, Callable[[bytes], object]] = {b"hash": client.hgetall, b"set": client.smembers}
    return {key: of.get(client.type(key), client.dump)(key) for key in client.scan_iter(count=1000)}


@contextmanager
def redis_server(folder: Path) -> Iterator[redis.Redis]:
    """A client of a server that ends with the block. folder: made for it."""
    port = choose_port("127.0.0.1", 0, 0, print)
    binary = shutil.which("redis-server")
    assert binary, "these tests need redis-server: apt-get install redis-server"
    folder.mkdir()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    command += ["--repl-diskless-sync-delay", "0"]  # seconds that a first replica waits for a second one
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(port=port, protocol=2) as client:
                while True:
                    assert process.poll() is None, f"redis-server ended with status {process.returncode}"
                    with contextlib.suppress(redis.ConnectionError):
                        client.ping()
                        break
                    time.sleep(0.01)
                yield client
        finally:
            process.kill()


def port_of(client: redis.Redis) -> int:
    """Where it listens."""
    return int(client.connection_pool.connection_kwargs["port"])
