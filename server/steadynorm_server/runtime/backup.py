"""Backup of the embedded store's folder to one file, while it runs or not, and restoration into an empty folder."""

import contextlib
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from steadynorm_server.errors import StartError
from steadynorm_server.runtime.embedded_redis import locked

_LOG = "appendonlydir"
_PROGRAM = "program.json"
_WAIT_S = 600.0


class BackupError(StartError):
    """The backup cannot be made or restored. The text says why and what to do."""


def back_up(folder: Path, file: Path) -> int:
    """Write all that the store in `folder` has acknowledged so far to `file`. Returns its size in bytes.

    The log's files are only appended to, but for a rewrite, which is waited for and kept from beginning meanwhile. A
    last command that was copied in part is left out when the backup is loaded: it was not acknowledged yet.
    """
    if not (folder / _LOG).is_dir():
        raise BackupError(f"{folder} holds no data of an embedded store. Name the server's folder with --data.")
    file = file.resolve()  # a link stays, and what it leads to is written
    if file.exists() and not file.is_file():
        raise BackupError(f"{file} is not a file, and a backup would replace it. Choose another place.")
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        with _at_rest(folder), open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as made:
            with tarfile.open(fileobj=made, mode="w") as archive:
                for name in (_LOG, _PROGRAM):
                    if (folder / name).exists():
                        archive.add(folder / name, name)
            made.flush()
            os.fsync(made.fileno())
        draft.replace(file)
    except OSError as error:
        if str(error.filename) in ("None", str(draft)):
            raise BackupError(f"{file} cannot be written: {error.strerror}. Choose another place.") from error
        raise BackupError(f"{error.filename}: {error.strerror}.") from error
    finally:
        draft.unlink(missing_ok=True)
    return file.stat().st_size


def restore(file: Path, folder: Path) -> None:
    """Fill `folder` from a backup. It must hold no data, and no server may run on it."""
    if (folder / _LOG).exists():
        raise BackupError(f"{folder} holds data already. Choose another folder with --data, or move them away.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with locked(folder), tarfile.open(file) as archive:
            members = archive.getmembers()
            if not any(each.name.startswith(f"{_LOG}/") for each in members):
                raise BackupError(f"{file} is no backup of steadynorm: it holds no {_LOG}.")
            kept = [each for each in members if each.name.partition("/")[0] in (_LOG, _PROGRAM)]
            archive.extractall(folder, kept, filter="data")
    except tarfile.TarError as error:
        raise BackupError(f"{file} is no whole backup: {error}.") from error
    except OSError as error:
        raise BackupError(f"{error.filename or file}: {error.strerror}.") from error


@contextlib.contextmanager
def _at_rest(folder: Path) -> Iterator[None]:
    """No rewrite of the log happens during the block; a store that does not run is locked."""
    socket = folder / "redis.sock"
    with redis.Redis(unix_socket_path=str(socket), socket_timeout=10, protocol=2) as client:
        try:
            before = client.config_get("auto-aof-rewrite-percentage")["auto-aof-rewrite-percentage"]
        except redis.ConnectionError:
            with locked(folder):  # raises where another process uses it, by a socket that is elsewhere
                yield
            return
        client.config_set("auto-aof-rewrite-percentage", 0)
        try:
            deadline = time.monotonic() + _WAIT_S
            while client.info("persistence")["aof_rewrite_in_progress"]:
                if time.monotonic() > deadline:
                    raise BackupError(f"the store still rewrites its log after {_WAIT_S:g} s. Try again.")
                time.sleep(0.1)
            yield
        finally:
            client.config_set("auto-aof-rewrite-percentage", before)
