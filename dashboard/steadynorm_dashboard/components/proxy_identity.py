"""ASGI middleware that keeps the headers in which a proxy names the person from its own connections only.

Anybody else's are removed before a page can read them: see `person`.
"""

from __future__ import annotations

import os

from starlette.types import ASGIApp, Receive, Scope, Send

from steadynorm_contract.networks import is_within, read_networks
from steadynorm_dashboard import person


class ProxyIdentity:
    """Trusts the addresses of STEADYNORM_TRUSTED_PROXY. Raises ValueError for what are none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        networks = read_networks(os.environ.get("STEADYNORM_TRUSTED_PROXY", ""))
        # Else uvicorn puts what X-Forwarded-For says in place of the connection's own address: `streamlit_process`.
        self._networks = networks if os.environ.get("FORWARDED_ALLOW_IPS") == "" else []
        self._names = frozenset(name.lower().encode() for name in person.header_names())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            client = scope.get("client")
            if not is_within(client[0] if client else None, self._networks):
                kept = [pair for pair in scope["headers"] if pair[0].lower() not in self._names]
                scope = {**scope, "headers": kept}
        await self._app(scope, receive, send)
