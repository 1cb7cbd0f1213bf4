"""The tokens file: a JSON list of `{"name", "role", "sha256", "runs", …}`, read again when it changes.

`runs` (optional) holds patterns such as "gpt-*" of the names of the runs that the token may read and touch. All other
runs are refused to it, and are in none of its lists. What counts is the name that the agent registered.

`budget` (optional, of proposers): changes that need no approval, see `Budget`.

`max_runs` and `max_mib` (optional, of agents): how many runs the token may have in Redis, and how much they may take.

Rotation needs no restart: add a second entry of the same name, replace the token everywhere, remove the first entry. If
the file becomes unreadable, the last valid tokens stay in force and the error is logged.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from steadynorm_contract.knobs import is_knob
from steadynorm_contract.settings import SETTING_RULES
from steadynorm_server.auth.budget import Budget
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
    max_runs: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_mib: Annotated[float, msgspec.Meta(gt=0)] | None = None
    budget: Budget | None = None


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
    for entry in entries:
        if entry.role is not Role.AGENT and not (entry.max_runs is None and entry.max_mib is None):
            raise TokenError(f"{path}: max_runs and max_mib are for agents, who register runs: {entry.name!r} is none.")
        if entry.role is not Role.PROPOSER and entry.budget is not None:
            raise TokenError(f"{path}: a budget is for a proposer: {entry.name!r} is an {entry.role}.")
        if unknown := [name for name in (entry.budget.settings if entry.budget else ()) if not _is_setting(name)]:
            raise TokenError(f"{path}: the budget of {entry.name!r} must name settings: got {unknown[0][:60]!r}.")
    return [
        (
            digest,
            Principal(entry.name, roles_granted(entry.role), entry.runs, entry.max_runs, entry.max_mib, entry.budget),
        )
        for entry, digest in zip(entries, digests, strict=True)
    ]


def _is_setting(name: str) -> bool:
    return name in SETTING_RULES or is_knob(name)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Changes with the file, also when another file replaces it."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
