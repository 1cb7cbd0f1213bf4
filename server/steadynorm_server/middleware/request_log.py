"""Every request has an id: the client's X-Request-ID or one of ours, in the answer, in problems and in the log.

Outermost of all, so that an answer of the last error handler has it too. Times requests by route on the way.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:  # which needs our problems, and they need the request's id
    from steadynorm_server.metrics.instruments import ServerMetrics

__all__ = ["install", "request_id"]

_GIVEN = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_KEY = "request_id"

_log = logging.getLogger(__name__)


def request_id(scope: Mapping[str, Any]) -> str | None:
    """The request's id; None outside of a server."""
    found: str | None = scope.get(_KEY)
    return found


def install(app: FastAPI, meters: ServerMetrics) -> None:
    """Name, time and log all requests of `app`."""
    build = app.build_middleware_stack

    def outermost() -> ASGIApp:
        return _Requests(build(), meters)

    app.build_middleware_stack = outermost  # type: ignore[method-assign] # add_middleware would miss a 500


class _Requests:
    """A plain ASGI wrapper: BaseHTTPMiddleware would buffer bodies and hide disconnects."""

    def __init__(self, app: ASGIApp, meters: ServerMetrics) -> None:
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        # What could forge a line of the log, or a header, is replaced.
        scope[_KEY] = named = given.decode() if _GIVEN.fullmatch(given) else secrets.token_hex(8)
        began, status, size = time.perf_counter(), 500, 0

        async def watch(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", named.encode())]}
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:
            _log.exception("request failed", extra={"request_id": named, "path": scope["path"]})
            raise
        finally:
            self._note(scope, status, size, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, size: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")  # a template: an unbounded label would be a leak
        if b"wait=" not in scope["query_string"]:
            self._meters.answered(scope["method"], route, status, seconds)
        level = logging.WARNING if status >= 500 else logging.INFO
        if _log.isEnabledFor(level):
            about = {
                "request_id": scope[_KEY],
                "method": scope["method"],
                "path": scope["path"],
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 2),
                "bytes": size,
                "client": scope["client"][0] if scope.get("client") else None,
            }
            _log.log(level, "%s %s %d", about["method"], about["path"], status, extra=about)
