"""Bearer tokens with roles.

Tokens come from STEADYNORM_OPERATOR_TOKEN, _AGENT_TOKEN, _VIEWER_TOKEN, each with a second one `…_PREVIOUS` that is
valid beside it during a rotation, and from STEADYNORM_TOKENS_FILE, a JSON list of `{"name", "role",
"sha256", "runs"}`, where `runs` (optional, for agents) holds patterns such as "gpt-*" of the run names that the token
may touch. Only digests are held in memory. Without any of these, one token named "local" has every role; it is in the
data folder (mode 0600), and the server must listen on loopback.

    viewer    reads runs, series, events, audit
    operator  as a viewer; changes settings, deletes runs
    agent     registers runs, sends telemetry, reads the settings of its run
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from steadynorm_server.auth.principals import Principal, Role, TokenError, roles_granted, token_digest
from steadynorm_server.auth.token_file import TokenFile
from steadynorm_server.config import ServerConfig


class Tokens:
    """All valid tokens, as digests."""

    def __init__(self, entries: Sequence[tuple[bytes, Principal]], file: TokenFile | None = None) -> None:
        self._entries = list(entries)
        self._file = file

    @staticmethod
    def single(token: str) -> Tokens:
        """One token with every role, named "local"."""
        return Tokens([(token_digest(token), Principal("local", frozenset(Role)))])

    @staticmethod
    def configured(settings: ServerConfig) -> Tokens | None:
        """The tokens of the environment and the tokens file; None when there are none. Raises TokenError."""
        entries = [
            (token_digest(secret.get_secret_value()), Principal(role.value, roles_granted(role)))
            for role, secret in (
                (Role.OPERATOR, settings.operator_token),
                (Role.OPERATOR, settings.operator_token_previous),
                (Role.AGENT, settings.agent_token),
                (Role.AGENT, settings.agent_token_previous),
                (Role.VIEWER, settings.viewer_token),
                (Role.VIEWER, settings.viewer_token_previous),
            )
            if secret is not None
        ]
        file = TokenFile(settings.tokens_file) if settings.tokens_file is not None else None
        # An empty file is a configuration too: tokens may be added later, and until then all requests are rejected.
        return Tokens(entries, file) if entries or file is not None else None

    def find(self, token: str) -> Principal | None:
        """The holder of this token; None for an unknown one. Takes equally long for both."""
        given, found = token_digest(token), None
        for known, holder in [*self._entries, *(self._file.holders() if self._file else ())]:
            if hmac.compare_digest(known, given):
                found = holder
        return found


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
