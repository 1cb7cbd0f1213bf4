"""ASGI middleware that compresses immutable files once and serves them from memory: a first visit loads 140 of them.

Starlette's GZipMiddleware compresses each response again, on the core that draws the pages, so Streamlit sends its
static files uncompressed. See docs/decisions/ for the figures.
"""

from __future__ import annotations

import asyncio
import gzip

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LEVEL = 6  # level 9 takes twice as long and saves one percent
_MAX_RATIO = 0.9  # fonts and images are compressed already
_STORED_HEADERS = ("content-type", "cache-control", "etag", "last-modified", "access-control-allow-origin")
_CONDITIONS = ("range", "if-none-match", "if-modified-since", "if-range")
"""Requests with one of these headers ask for less than the file, and go to the application."""


class StaticFileCache:
    """Caches the responses of `app` to GET requests that have `Cache-Control: immutable`.

    By definition such a response depends on the path only. At most `limit_bytes` of bodies are stored.
    """

    def __init__(self, app: ASGIApp, limit_bytes: int = 32 << 20) -> None:
        self._app, self._limit = app, limit_bytes
        self._responses: dict[str, Response] = {}
        self._bytes = 0
        self._compressing: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        headers, response = Headers(scope=scope), self._responses.get(scope["path"])
        if any(name in headers for name in _CONDITIONS):
            await self._app(scope, receive, send)
        elif response is None:
            await self._app(scope, receive, self._recording(scope["path"], send))
        elif "content-encoding" in response.headers and "gzip" not in headers.get("accept-encoding", ""):
            await self._app(scope, receive, send)
        else:
            await response(scope, receive, send)

    async def settled(self) -> None:
        """Wait until all responses so far are stored."""
        await asyncio.gather(*self._compressing)

    def _recording(self, path: str, send: Send) -> Send:
        """`send`, which also stores what it sends if that is immutable."""
        headers: dict[str, str] = {}
        body = bytearray()

        async def record(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                sent = Headers(raw=message["headers"])
                if "immutable" in sent.get("cache-control", "") and "content-encoding" not in sent:
                    headers.update({name: sent[name] for name in _STORED_HEADERS if name in sent})
            elif message["type"] == "http.response.body" and headers:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    task = asyncio.create_task(self._store(path, headers, bytes(body)))
                    self._compressing.add(task)  # the event loop itself has only a weak reference
                    task.add_done_callback(self._compressing.discard)
            await send(message)

        return record

    async def _store(self, path: str, headers: dict[str, str], body: bytes) -> None:
        compressed = await asyncio.to_thread(gzip.compress, body, _LEVEL, mtime=0)
        if len(compressed) < _MAX_RATIO * len(body):
            body = compressed
            headers |= {"content-encoding": "gzip", "vary": "Accept-Encoding"}
        if path not in self._responses and self._bytes + len(body) <= self._limit:
            self._bytes += len(body)
            self._responses[path] = Response(body, headers=headers)
