"""Gives every request an id, logs it, and measures it by route.

The id is the client's X-Request-ID or a new one; it is in the response, in problem details and in the log. The
outermost middleware, so that a response of the last error handler has it too.
"""

import logging
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steadynorm_server.metrics.instruments import ServerMetrics

_VALID_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_KEY = "request_id"

_log = logging.getLogger(__name__)


def request_id(scope: Mapping[str, Any]) -> str | None:
    """The request's id; None where no RequestLog is installed."""
    found: str | None = scope.get(_KEY)
    return found


class RequestLog:
    """A plain ASGI wrapper: BaseHTTPMiddleware would buffer bodies and hide disconnects."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        # An id that could forge a log line or a header is replaced.
        scope[_KEY] = identifier = given.decode() if _VALID_ID.fullmatch(given) else secrets.token_hex(8)
        started, status, size = time.perf_counter(), 500, 0

        async def observe(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", identifier.encode())]}
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, observe)
        except Exception:
            _log.exception("request failed", extra={"request_id": identifier, "path": scope["path"]})
            raise
        finally:
            self._record(scope, status, size, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, size: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")  # a template: paths would be unbounded labels
        polls = scope["method"] == "GET" and route.endswith("/settings") and b"wait=" in scope["query_string"]
        if not polls:
            self._metrics.record_request(scope["method"], route, status, seconds)
        level = logging.WARNING if status >= 500 else logging.INFO
        if _log.isEnabledFor(level):
            fields = {
                "request_id": scope[_KEY],
                "method": scope["method"],
                "path": scope["path"],
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 2),
                "bytes": size,
                "client": scope["client"][0] if scope.get("client") else None,
            }
            _log.log(level, "%s %s %d", fields["method"], fields["path"], status, extra=fields)
