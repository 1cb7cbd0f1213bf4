"""The tokens file: a JSON list of `{"name", "role", "sha256", "runs"}`, read again when it changes.

Rotation needs no restart: add a second entry of the same name, let everybody change over, remove the first one. A
file that cannot be read leaves the tokens that were known in force and is said in the log, so that a slip of the
editor locks nobody out.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from steadynorm_server.auth.principals import Principal, Role, TokenError, rights

__all__ = ["TokenEntry", "TokenFile", "read"]

LOOK_EVERY_S = 1.0

_log = logging.getLogger(__name__)

CachedRun = list[tuple[bytes, Principal]]


class TokenEntry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One token of the file, by its SHA-256 in hexadecimal digits: the token itself is nowhere."""

    name: str
    role: Role
    sha256: str
    runs: tuple[str, ...] | None = None


class TokenFile:
    """The tokens of `path`. Raises TokenError when they cannot be read at first; later the old ones stay.

    clock: monotonic seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._looked = clock()
        self._seen = _stamp(path)  # before reading: a change in between is read once more, not missed
        self._known = read(path)

    def known(self) -> CachedRun:
        """(digest, holder) of each token; looks whether the file changed at most once a second."""
        if (now := self._clock()) - self._looked >= LOOK_EVERY_S:
            self._looked = now
            if (stamp := _stamp(self._path)) != self._seen:
                self._seen = stamp
                self._reload()
        return self._known

    def _reload(self) -> None:
        try:
            self._known = read(self._path)
        except TokenError as error:
            _log.error("the tokens known so far stay in force: %s", error)
        else:
            _log.info("%s was read again: %d tokens", self._path, len(self._known))


def read(path: Path) -> CachedRun:
    """(digest, holder) of each entry. Raises TokenError."""
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[TokenEntry])
        digests = [bytes.fromhex(entry.sha256) for entry in entries]
    except (OSError, ValueError) as error:
        raise TokenError(
            f'{path} must be a JSON list of {{"name", "role", "sha256", "runs"}}: {error}. '
            "`steadynorm token new NAME --role ROLE` makes an entry."
        ) from error
    if any(len(digest) != 32 for digest in digests):
        raise TokenError(f"{path}: each sha256 must be 64 hexadecimal digits, as `steadynorm token new` prints them.")
    return [
        (digest, Principal(entry.name, rights(entry.role), entry.runs))
        for entry, digest in zip(entries, digests, strict=True)
    ]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Changes with the file, also when another one takes its place."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
