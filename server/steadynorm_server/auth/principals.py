"""The sender of a request: its token's name, its roles, and the runs that it may touch."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from fnmatch import fnmatchcase

from steadynorm_server.errors import ProblemError


class Role(enum.StrEnum):
    """What a token may do."""

    AGENT = "agent"
    VIEWER = "viewer"
    OPERATOR = "operator"


class TokenError(Exception):
    """The configured tokens are invalid. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a request. `runs`: patterns of the run names that it may touch; None: all."""

    name: str
    roles: frozenset[Role]
    runs: tuple[str, ...] | None = None

    def require_run(self, run_name: str) -> None:
        """Raises a 403 problem if this token is bound to other runs."""
        if self.runs is not None and not any(fnmatchcase(run_name, pattern) for pattern in self.runs):
            raise ProblemError(
                403,
                f"token {self.name!r} is bound to runs named {', '.join(self.runs)}: {run_name!r} is not among them.",
            )


def roles_granted(role: Role) -> frozenset[Role]:
    """The role and those that it includes: an operator is a viewer too."""
    return frozenset({Role.OPERATOR, Role.VIEWER}) if role is Role.OPERATOR else frozenset({role})


def token_digest(token: str) -> bytes:
    """SHA-256 of a token. hmac.compare_digest itself raises on a non-ASCII str."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
