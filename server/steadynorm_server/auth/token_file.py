"""The tokens file: a JSON list of `{"name", "role", "sha256", "runs"}`, read again when it changes.

Rotation needs no restart: add a second entry of the same name, replace the token everywhere, remove the first entry. If
the file becomes unreadable, the last valid tokens stay in force and the error is logged.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from steadynorm_server.auth.principals import Principal, Role, TokenError, roles_granted

CHECK_EVERY_S = 1.0

_log = logging.getLogger(__name__)

Holders = list[tuple[bytes, Principal]]


class TokenEntry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One token of the file, by its SHA-256 in hexadecimal digits."""

    name: str
    role: Role
    sha256: str
    runs: tuple[str, ...] | None = None


class TokenFile:
    """The tokens of `path`. Raises TokenError if they cannot be read at first; later the last valid ones stay.

    clock: monotonic seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._checked_at = clock()
        self._stamp = _stamp(path)  # before reading: a change in between leads to another read, not to a miss
        self._holders = read(path)

    def holders(self) -> Holders:
        """(digest, holder) of each token; checks for a changed file at most once a second."""
        if (now := self._clock()) - self._checked_at >= CHECK_EVERY_S:
            self._checked_at = now
            if (stamp := _stamp(self._path)) != self._stamp:
                self._stamp = stamp
                self._reload()
        return self._holders

    def _reload(self) -> None:
        try:
            self._holders = read(self._path)
        except TokenError as error:
            _log.error("the last valid tokens stay in force: %s", error)
        else:
            _log.info("%s reloaded: %d tokens", self._path, len(self._holders))


def read(path: Path) -> Holders:
    """(digest, holder) of each entry. Raises TokenError."""
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[TokenEntry])
        digests = [bytes.fromhex(entry.sha256) for entry in entries]
    except (OSError, ValueError) as error:
        raise TokenError(
            f'{path} must be a JSON list of {{"name", "role", "sha256", "runs"}}: {error}. '
            "`steadynorm token new NAME --role ROLE` prints an entry."
        ) from error
    if any(len(digest) != 32 for digest in digests):
        raise TokenError(f"{path}: each sha256 must be 64 hexadecimal digits, as `steadynorm token new` prints them.")
    return [
        (digest, Principal(entry.name, roles_granted(entry.role), entry.runs))
        for entry, digest in zip(entries, digests, strict=True)
    ]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Changes with the file, also when another file replaces it."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
