"""Who may do what: bearer tokens with roles.

Tokens come from STEADYNORM_OPERATOR_TOKEN, _AGENT_TOKEN, _VIEWER_TOKEN and from STEADYNORM_TOKENS_FILE, a JSON list of
`{"name", "role", "sha256", "runs"}`, where `runs` (optional, for agents) holds patterns such as "gpt-*" of the run
names that the token is good for. Only digests are kept in memory. Without any, one token named "local" has every
role; it lives in the data folder (mode 0600) and the server must listen on loopback.

    viewer    reads runs, series, events, audit
    operator  what a viewer does, changes settings, deletes runs
    agent     registers runs, sends telemetry, reads the settings of its run; never changes them
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
from starlette.requests import Request

from steadynorm_server.config import ServerSettings
from steadynorm_server.problems import ProblemError

__all__ = ["Principal", "Role", "TokenError", "Tokens", "local_token", "principal", "requires"]


class Role(enum.StrEnum):
    """What a token is good for."""

    AGENT = "agent"
    VIEWER = "viewer"
    OPERATOR = "operator"


class TokenError(Exception):
    """The configured tokens cannot be used. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a request. `runs`: patterns of the run names that it may touch; None: all."""

    name: str
    roles: frozenset[Role]
    runs: tuple[str, ...] | None = None

    def require_run(self, run_name: str) -> None:
        """Raises a 403 problem when this token is bound to other runs."""
        if self.runs is not None and not any(fnmatchcase(run_name, pattern) for pattern in self.runs):
            raise ProblemError(
                403,
                f"token {self.name!r} is bound to runs named {', '.join(self.runs)}: {run_name!r} is not among them.",
            )


class _TokenEntry(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    role: Role
    sha256: str
    runs: tuple[str, ...] | None = None


class Tokens:
    """The known tokens, as digests."""

    def __init__(self, entries: Sequence[tuple[bytes, Principal]]) -> None:
        self._entries = list(entries)

    @staticmethod
    def single(token: str) -> Tokens:
        """One token with every role, named "local"."""
        return Tokens([(_digest(token), Principal("local", frozenset(Role)))])

    @staticmethod
    def configured(settings: ServerSettings) -> Tokens | None:
        """The tokens of the environment and the tokens file; None when there are none. Raises TokenError."""
        entries = [
            (_digest(secret.get_secret_value()), Principal(role.value, _rights(role)))
            for role, secret in (
                (Role.OPERATOR, settings.operator_token),
                (Role.AGENT, settings.agent_token),
                (Role.VIEWER, settings.viewer_token),
            )
            if secret is not None
        ]
        if settings.tokens_file is not None:
            entries += _read(settings.tokens_file)
        return Tokens(entries) if entries else None

    def find(self, token: str) -> Principal | None:
        """Whose token this is. Takes as long for a wrong token as for a right one."""
        given, found = _digest(token), None
        for digest, holder in self._entries:
            if hmac.compare_digest(digest, given):
                found = holder
        return found


def _rights(role: Role) -> frozenset[Role]:
    return frozenset({Role.OPERATOR, Role.VIEWER}) if role is Role.OPERATOR else frozenset({role})


def _digest(token: str) -> bytes:
    # The digest makes any text comparable: compare_digest itself raises on a non-ASCII str.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _read(path: Path) -> list[tuple[bytes, Principal]]:
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[_TokenEntry])
        digests = [bytes.fromhex(entry.sha256) for entry in entries]
    except (OSError, ValueError) as error:
        raise TokenError(
            f'{path} must be a JSON list of {{"name", "role", "sha256", "runs"}}: {error}. '
            "Make a digest with `printf %s TOKEN | sha256sum`."
        ) from error
    if any(len(digest) != 32 for digest in digests):
        raise TokenError(f"{path}: each sha256 must be 64 hexadecimal digits. Use `printf %s TOKEN | sha256sum`.")
    return [
        (digest, Principal(entry.name, _rights(entry.role), entry.runs))
        for entry, digest in zip(entries, digests, strict=True)
    ]


def local_token(data: Path) -> str:
    """The user's own token, made on first use. Kept for the next start, so that a restart locks nobody out."""
    path = data / "token"
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        if token := path.read_text("ascii").strip():
            return token
        path.unlink()
    except FileNotFoundError:
        pass
    except UnicodeDecodeError as error:
        raise TokenError(f"{path} does not hold a token. Remove it and start again to get a new one.") from error
    token = secrets.token_urlsafe(24)
    # Written beside and linked into place: two servers that start together agree on one token, whole at any moment.
    draft = path.with_name(f"token.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token + "\n")
    try:
        os.link(draft, path)
    except FileExistsError:
        return path.read_text("ascii").strip()
    finally:
        draft.unlink()
    return token


def principal(request: Request) -> Principal:
    """Who sent the request. Raises a 401 problem."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip()
    tokens: Tokens = request.app.state.tokens
    challenge = {"WWW-Authenticate": 'Bearer realm="steadynorm"'}
    if scheme.lower() != "bearer" or not token:
        raise ProblemError(
            401,
            "a token is needed: send `Authorization: Bearer TOKEN`. "
            "The server printed where its token is when it started; tools of the same user find it by themselves.",
            headers=challenge,
        )
    found = tokens.find(token)
    if found is None:
        raise ProblemError(
            401, "this token is not known here. Is it the one of this server ($STEADYNORM_TOKEN)?", headers=challenge
        )
    return found


class requires:  # noqa: N801 - read as a word at its place of use: Depends(requires(Role.VIEWER))
    """Dependency: the sender, who has one of `roles`. Raises 401 and 403 problems."""

    def __init__(self, *roles: Role) -> None:
        self._roles = frozenset(roles)

    async def __call__(self, request: Request) -> Principal:
        """The sender of `request`."""
        sender = principal(request)
        if not self._roles & sender.roles:
            has = ", ".join(sorted(sender.roles))
            needed = " or ".join(sorted(self._roles))
            raise ProblemError(403, f"this needs the role {needed}: token {sender.name!r} has {has}.")
        return sender
