"""The address at the other end of the connection, kept from what X-Forwarded-For may say afterwards."""

import os

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_KEY = "steadynorm.peer"


def with_peer(app: ASGIApp) -> ASGIApp:
    """`app` with the client that a proxy on this machine names, as uvicorn has it, and the true peer beside it."""
    trusted = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1")
    inner = ProxyHeadersMiddleware(app, trusted_hosts=trusted)  # type: ignore[arg-type] # uvicorn has types of its own

    async def keep(scope: Scope, receive: Receive, send: Send) -> None:
        scope[_KEY] = scope.get("client")
        await inner(scope, receive, send)  # type: ignore[arg-type]

    return keep


def peer_of(scope: Scope) -> str | None:
    """The address of the other end; None of a unix socket."""
    client = scope.get(_KEY) or scope.get("client")
    return str(client[0]) if client else None
