"""Headers that every answer carries, so that no browser does more with it than it should."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["install"]

ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
NOTHING = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
HSTS = (b"strict-transport-security", b"max-age=31536000")
_CDN = "https://cdn.jsdelivr.net"


def install(app: FastAPI, *, tls: bool) -> None:
    """Put the headers on all answers of `app`, on those of its outermost error handler too.

    tls: people reach it by https, and their browsers may insist on it from now on.
    """
    build, docs = app.build_middleware_stack, _docs_policy(app)

    def outermost() -> ASGIApp:
        return _Headers(build(), docs, tls)

    app.build_middleware_stack = outermost  # type: ignore[method-assign] # add_middleware would leave a 500 bare


def _docs_policy(app: FastAPI) -> bytes:
    """What /docs needs: Swagger UI from where FastAPI takes it, and its own one script, by its hash."""
    page = get_swagger_ui_html(openapi_url=app.openapi_url or "", title=f"{app.title} - Swagger UI").body
    (script,) = re.findall(rb"<script>(.*?)</script>", bytes(page), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    return (
        f"default-src 'none'; script-src {_CDN} 'sha256-{digest}'; style-src {_CDN} 'unsafe-inline'; "
        "img-src 'self' data: https://fastapi.tiangolo.com; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
    ).encode()


class _Headers:
    def __init__(self, app: ASGIApp, docs: bytes, tls: bool) -> None:
        self._app = app
        self._docs = docs
        self._always = [*ALWAYS, HSTS] if tls else list(ALWAYS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def dress(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                policy = self._docs if scope["path"] == "/docs" else NOTHING
                added = [*self._always, (b"content-security-policy", policy), (b"cache-control", b"no-store")]
                message["headers"] = given + [pair for pair in added if pair[0] not in names]
            await send(message)

        await self._app(scope, receive, dress)
