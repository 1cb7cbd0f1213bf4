"""Bearer tokens with roles.

Tokens come from STEADYNORM_OPERATOR_TOKEN, _AGENT_TOKEN, _VIEWER_TOKEN, each with a second one `…_PREVIOUS` that is
valid beside it during a rotation, and from STEADYNORM_TOKENS_FILE, see `token_file`. Only digests are held in memory.
Without any of these, one token named "local" has every role; it is in the data folder (mode 0600), and the server must
listen on loopback.

    viewer    reads runs, series, events, audit
    operator  as a viewer; changes settings, deletes runs
    proposer  as a viewer; proposes changes of settings, and makes those that fit its budget (tokens file only)
    agent     registers runs, sends telemetry, reads the settings of its run
"""

import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from steadynorm_server.auth.principals import Principal, Role, TokenError, roles_granted, token_digest
from steadynorm_server.auth.token_file import TokenFile
from steadynorm_server.config import ServerConfig

SHORTEST = 16
"""Characters of a configured token. One of the tokens file is known by its digest only."""


_CONFIGURED = (Role.AGENT, Role.VIEWER, Role.OPERATOR)
"""Roles with a variable of their own; a proposer is in the tokens file."""


class Tokens:
    """All valid tokens, as digests."""

    def __init__(self, entries: Sequence[tuple[bytes, Principal]], file: TokenFile | None = None) -> None:
        self._entries = list(entries)
        self._file = file

    @classmethod
    def single(cls, token: str) -> Self:
        """One token with every role, named "local"."""
        return cls([(token_digest(token), Principal("local", frozenset(_CONFIGURED)))])

    @classmethod
    def configured(cls, settings: ServerConfig) -> Self | None:
        """The tokens of the environment and the tokens file; None when there are none. Raises TokenError."""
        entries = [
            (token_digest(secret.get_secret_value()), Principal(role.value, roles_granted(role)))
            for role in _CONFIGURED
            for secret in (getattr(settings, f"{role}_token"), getattr(settings, f"{role}_token_previous"))
            if secret is not None
        ]
        proxy = settings.proxy_token
        named = [] if proxy is None else [(token_digest(proxy.get_secret_value()), Principal("proxy", frozenset()))]
        _require_distinct([*entries, *named])
        _require_long(settings)
        file = TokenFile(settings.tokens_file) if settings.tokens_file is not None else None
        # An empty file is a configuration too: tokens may be added later, and until then all requests are rejected.
        return cls(entries, file) if entries or file is not None else None

    def find(self, token: str) -> Principal | None:
        """The holder of this token; None for an unknown one. Takes equally long for both."""
        given, found = token_digest(token), None
        for known, holder in [*self._entries, *(self._file.holders() if self._file else ())]:
            if hmac.compare_digest(known, given):
                found = holder
        return found


def _require_long(settings: ServerConfig) -> None:
    """Raises TokenError for a token that could be guessed."""
    made_for = {f"{role}_token{which}": role for role in _CONFIGURED for which in ("", "_previous")}
    for name, role in {**made_for, "proxy_token": Role.OPERATOR}.items():
        secret = getattr(settings, name)
        if secret is not None and len(secret.get_secret_value()) < SHORTEST:
            raise TokenError(
                f"STEADYNORM_{name.upper()} must have at least {SHORTEST} characters, so that nobody guesses it: "
                f"got {len(secret.get_secret_value())}. `steadynorm token new {role} --role {role}` makes one."
            )


def _require_distinct(entries: Sequence[tuple[bytes, Principal]]) -> None:
    """Raises TokenError where two roles have the same token: its holder would have both."""
    seen: dict[bytes, str] = {}
    for digest, holder in entries:
        if seen.setdefault(digest, holder.name) != holder.name:
            raise TokenError(
                f"the tokens of {seen[digest]} and {holder.name} are the same: give each role one of its own. "
                "`steadynorm token new` makes them."
            )


def local_token(data: Path) -> str:
    """The token in the data folder, created on first use. A restart uses it again."""
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
    # Written to a draft and linked into place: two servers that start together agree on one complete token.
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
