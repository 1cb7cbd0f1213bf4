"""The sender of a request: its token's name, its roles, and the runs that it may touch."""

import enum
import hashlib
from dataclasses import dataclass
from fnmatch import fnmatchcase

from steadynorm_server.auth.budget import Budget
from steadynorm_server.errors import ProblemError, StartError


class Role(enum.StrEnum):
    """What a token may do."""

    AGENT = "agent"
    VIEWER = "viewer"
    OPERATOR = "operator"
    PROPOSER = "proposer"


class TokenError(StartError):
    """The configured tokens are invalid. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a request. `runs`: patterns of the run names that it may touch; None: all."""

    name: str
    roles: frozenset[Role]
    runs: tuple[str, ...] | None = None
    max_runs: int | None = None
    """Runs that an agent's token may have in Redis; None: any number."""
    max_mib: float | None = None
    """MiB that these may take together before no new one is taken; None: any."""
    budget: Budget | None = None
    """Changes that a proposer's token may make without approval; None: none."""

    def require_run(self, run_name: str) -> None:
        """Raises a 403 problem if this token is bound to other runs. run_name: as the agent registered it."""
        if self.runs is not None and not is_named(run_name, self.runs):
            raise ProblemError(
                403,
                f"token {self.name!r} is bound to runs named {', '.join(self.runs)}: {run_name!r} is not among them.",
            )


def is_named(run_name: str, patterns: tuple[str, ...] | None) -> bool:
    """Whether one of the patterns matches; None: all names do."""
    return patterns is None or any(fnmatchcase(run_name, pattern) for pattern in patterns)


def roles_granted(role: Role) -> frozenset[Role]:
    """The role and those that it includes: operators and proposers are viewers too."""
    return frozenset({role, Role.VIEWER}) if role in (Role.OPERATOR, Role.PROPOSER) else frozenset({role})


def token_digest(token: str) -> bytes:
    """SHA-256 of a token. hmac.compare_digest itself raises on a non-ASCII str."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
