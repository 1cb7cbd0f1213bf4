"""Bearer tokens and roles of requests, as FastAPI dependencies."""

from __future__ import annotations

from fastapi import Request

from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.errors import ProblemError


def principal(request: Request) -> Principal:
    """Who sent the request. Raises a 401 problem."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip()
    tokens: Tokens = request.app.state.tokens
    challenge = {"WWW-Authenticate": 'Bearer realm="steadynorm"'}
    if scheme.lower() != "bearer" or not token:
        raise ProblemError(
            401,
            "a token is required: send `Authorization: Bearer TOKEN`. "
            "The server prints where its token is when it starts; the command line of the same user finds it there.",
            headers=challenge,
        )
    found = tokens.find(token)
    if found is None:
        raise ProblemError(401, "unknown token. Is it the token of this server ($STEADYNORM_TOKEN)?", headers=challenge)
    return found


class requires:  # noqa: N801 - reads as a word where it is used: Depends(requires(Role.VIEWER))
    """Dependency: the sender, who must have one of `roles` and keep to its rate. Raises 401, 403 and 429 problems."""

    def __init__(self, *roles: Role) -> None:
        self._roles = frozenset(roles)

    async def __call__(self, request: Request) -> Principal:
        """The sender of `request`."""
        sender = principal(request)
        if not self._roles & sender.roles:
            roles = ", ".join(sorted(sender.roles))
            required = " or ".join(sorted(self._roles))
            raise ProblemError(403, f"this requires the role {required}: token {sender.name!r} has {roles}.")
        await request.app.state.rate_limiter.acquire(sender, request.path_params.get("run_id"))
        return sender
