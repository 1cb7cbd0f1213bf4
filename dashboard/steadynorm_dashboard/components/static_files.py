"""Files that never change, compressed once and kept: a visitor who comes for the first time asks for 140 of them.

Streamlit reads each from the disk for each visitor, and sends it as it is or packs it anew, on the core that draws the
pages. Middleware for `streamlit.App`; it knows nothing of where the files lie.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

__all__ = ["KeptFiles"]

_Scope = MutableMapping[str, Any]
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]
_Headers = list[tuple[bytes, bytes]]

_LEVEL = 6  # 9 takes twice as long for one byte in a hundred
_WORTH = 0.9  # of the size: fonts and pictures are packed already
_KEPT_HEADERS = {b"content-type", b"cache-control", b"etag", b"last-modified", b"access-control-allow-origin"}
_DECIDES = {b"range", b"if-none-match", b"if-modified-since", b"if-range"}
"""A request with one of these asks for less than the file: Streamlit answers."""


@dataclass(frozen=True, slots=True)
class _Kept:
    headers: _Headers
    body: bytes
    packed: bool


class KeptFiles:
    """Answers of `app` to GET that say `Cache-Control: immutable`: the first is passed on, later ones come from here.

    Such an answer depends on the path alone, by what the word means; a path that the application does not serve so is
    never kept. At most `limit_bytes` of bodies are held.
    """

    def __init__(self, app: _App, limit_bytes: int = 32 << 20) -> None:
        self._app, self._limit = app, limit_bytes
        self._kept: dict[str, _Kept] = {}
        self._bytes = 0
        self._packing: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or _DECIDES & {name for name, _ in scope["headers"]}:
            await self._app(scope, receive, send)
            return
        found = self._kept.get(scope["path"])
        if found is None or (found.packed and not _takes_gzip(scope["headers"])):
            await self._app(scope, receive, self._listening(scope["path"], send))
            return
        await send({"type": "http.response.start", "status": 200, "headers": found.headers})
        await send({"type": "http.response.body", "body": found.body})

    async def settled(self) -> None:
        """All that was seen by now is kept."""
        await asyncio.gather(*self._packing)

    def _listening(self, path: str, send: _Send) -> _Send:
        """`send`, which also keeps what it sends, where that never changes."""
        headers: _Headers = []
        body = bytearray()

        async def passed(message: _Message) -> None:
            nonlocal headers
            if message["type"] == "http.response.start" and message["status"] == 200:
                headers = _plain(message["headers"]) if path not in self._kept else []
            elif message["type"] == "http.response.body" and headers:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    task = asyncio.create_task(self._keep(path, headers, bytes(body)))
                    self._packing.add(task)  # the loop itself holds a task weakly
                    task.add_done_callback(self._packing.discard)
            await send(message)

        return passed

    async def _keep(self, path: str, headers: _Headers, body: bytes) -> None:
        packed = await asyncio.to_thread(gzip.compress, body, _LEVEL, mtime=0)
        small = len(packed) < _WORTH * len(body)
        held = packed if small else body
        if path in self._kept or self._bytes + len(held) > self._limit:
            return
        size = (b"content-length", str(len(held)).encode())
        coding = [(b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")] if small else []
        self._bytes += len(held)
        self._kept[path] = _Kept([*headers, size, *coding], held, small)


def _plain(headers: _Headers) -> _Headers:
    """The headers to keep; none if the answer may change, or is packed already."""
    told = {name.lower(): value for name, value in headers}
    if b"immutable" not in told.get(b"cache-control", b"") or b"content-encoding" in told:
        return []
    return [(name, value) for name, value in told.items() if name in _KEPT_HEADERS]


def _takes_gzip(headers: _Headers) -> bool:
    """Whether the browser said so. A weight of 0 forbids it, and is not told apart: no browser says that."""
    return any(name == b"accept-encoding" and b"gzip" in value for name, value in headers)
