"""Bearer tokens and roles of requests, as FastAPI dependencies."""

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from fastapi import Request

from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.auth.proxy import TrustedProxy
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.errors import ProblemError
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


def requires(*roles: Role) -> Callable[[Request], Awaitable[Principal]]:
    """Dependency: the sender, who must have one of `roles`, keep to its rate, and be let to the run of the path.

    Raises 401, 403, 404 and 429 problems. A list must itself leave out what `sender.runs` does not name.
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
        return sender

    return check
