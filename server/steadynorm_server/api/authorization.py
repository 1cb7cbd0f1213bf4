"""Bearer tokens and roles of requests, as FastAPI dependencies."""

from collections.abc import Awaitable, Callable
from typing import get_origin
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.routing import APIRoute

from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.auth.proxy import TrustedProxy
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.errors import ProblemError, invalid
from steadynorm_server.middleware.peer import peer_of


def principal(request: Request) -> Principal:
    """Who sent the request: whom a trusted proxy names, else the holder of the token. Raises 400, 401, 403 problems."""
    proxy: TrustedProxy | None = request.app.state.proxy
    if proxy is not None and (person := proxy.find(peer_of(request.scope), request.headers)) is not None:
        _require_own_page(request)
        return person
    given = request.headers.getlist("authorization")
    if len(given) > 1:  # a proxy before us may have looked at another one
        raise ProblemError(400, "a request must have one Authorization header: it has several.")
    scheme, _, token = (given[0] if given else "").partition(" ")
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


def _require_own_page(request: Request) -> None:
    """Raises a 403 problem for a change that another site's page sends: the proxy's cookie goes with that one too."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    own = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if not (site in ("same-origin", "none") and own):
        raise ProblemError(
            403,
            "a page of another site sent this change with your sign-in: it was refused. "
            "A proxy before the server must pass the Host header on as it is.",
        )


def _require_known_query(request: Request) -> None:
    """Raises a 422 problem for a query parameter that the route does not have, or for one that is given twice.

    FastAPI ignores the one and takes the last of the other: `DELETE /runs/RUN?grace_s=60` would remove it at once.
    """
    route = request.scope.get("route")
    if not request.scope["query_string"] or not isinstance(route, APIRoute):
        return
    known = {each.alias: get_origin(each.field_info.annotation) is list for each in route.dependant.query_params}
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        shown = ascii(name[:60])
        if name not in known:
            rule = f"must be one of {', '.join(known)}" if known else "must not be given: this address takes none"
            raise invalid(name[:60], rule, f"{shown} is not a query parameter of this address: it {rule}.")
        if not known[name] and given.count(name) > 1:
            raise invalid(name, "must be given once", f"{shown} must be given once: got {given.count(name)}.")


def requires(*roles: Role) -> Callable[[Request], Awaitable[Principal]]:
    """Dependency: the sender, who must have one of `roles`, keep to its rate, and be let to the run of the path.

    Raises 401, 403, 404 and 429 problems; and, where only people ask, a 422 one for an unknown query parameter: agents
    may be of a later version. A list must itself leave out what `sender.runs` does not name.
    """

    async def check(request: Request) -> Principal:
        sender = principal(request)
        if not sender.roles.intersection(roles):
            held, required = ", ".join(sorted(sender.roles)), " or ".join(sorted(roles))
            raise ProblemError(403, f"this requires the role {required}: token {sender.name!r} has {held}.")
        run_id = request.path_params.get("run_id")
        await request.app.state.rate_limiter.acquire(sender, run_id)
        if sender.runs is not None and run_id is not None and Role.AGENT not in sender.roles:
            # The routes of agents ask for themselves, since they read the run anyway.
            sender.require_run((await request.app.state.repository.get(run_id)).name)
        if Role.AGENT not in roles:
            _require_known_query(request)
        return sender

    return check
