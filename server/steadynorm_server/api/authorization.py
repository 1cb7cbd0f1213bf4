"""TODO from steadynorm_server.auth.tokens: principal, requires."""

from __future__ import annotations

from starlette.requests import Request

from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.errors import ProblemError

__all__ = ["principal", "requires"]


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
    """Dependency: the sender, who has one of `roles` and keeps to the rate. Raises 401, 403 and 429 problems."""

    def __init__(self, *roles: Role) -> None:
        self._roles = frozenset(roles)

    async def __call__(self, request: Request) -> Principal:
        """The sender of `request`."""
        sender = principal(request)
        if not self._roles & sender.roles:
            has = ", ".join(sorted(sender.roles))
            needed = " or ".join(sorted(self._roles))
            raise ProblemError(403, f"this needs the role {needed}: token {sender.name!r} has {has}.")
        await request.app.state.rates.admit(sender, request.path_params.get("run_id"))
        return sender
