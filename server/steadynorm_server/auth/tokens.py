"""Who may do what: bearer tokens with roles.

Tokens come from STEADYNORM_OPERATOR_TOKEN, _AGENT_TOKEN, _VIEWER_TOKEN, each with a second one `…_PREVIOUS` that is
good beside it while everybody changes over, and from STEADYNORM_TOKENS_FILE, a JSON list of `{"name", "role",
"sha256", "runs"}`, where `runs` (optional, for agents) holds patterns such as "gpt-*" of the run names that the token
is good for. Only digests are kept in memory. Without any, one token named "local" has every role; it lives in the data
folder (mode 0600) and the server must listen on loopback.

    viewer    reads runs, series, events, audit
    operator  what a viewer does, changes settings, deletes runs
    agent     registers runs, sends telemetry, reads the settings of its run; never changes them
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from steadynorm_server.auth.principals import Principal, Role, TokenError, digest, rights
from steadynorm_server.auth.token_file import TokenFile
from steadynorm_server.config import ServerConfig

__all__ = ["Principal", "Role", "TokenError", "Tokens", "local_token"]


class Tokens:
    """The known tokens, as digests."""

    def __init__(self, entries: Sequence[tuple[bytes, Principal]], file: TokenFile | None = None) -> None:
        self._entries = list(entries)
        self._file = file

    @staticmethod
    def single(token: str) -> Tokens:
        """One token with every role, named "local"."""
        return Tokens([(digest(token), Principal("local", frozenset(Role)))])

    @staticmethod
    def configured(settings: ServerConfig) -> Tokens | None:
        """The tokens of the environment and the tokens file; None when there are none. Raises TokenError."""
        entries = [
            (digest(secret.get_secret_value()), Principal(role.value, rights(role)))
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
        # An empty file is a configuration too: a token is put into it later, and until then nobody gets in.
        return Tokens(entries, file) if entries or file is not None else None

    def find(self, token: str) -> Principal | None:
        """Whose token this is. Takes as long for a wrong token as for a right one."""
        given, found = digest(token), None
        for known, holder in [*self._entries, *(self._file.known() if self._file else ())]:
            if hmac.compare_digest(known, given):
                found = holder
        return found


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
