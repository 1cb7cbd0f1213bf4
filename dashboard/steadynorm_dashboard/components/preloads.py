"""ASGI middleware that tells a browser in its first answer which scripts the page will ask for.

Streamlit's page asks for the script of each element when the first one of its kind is drawn, so that a first visit is a
chain of requests, each of which waits for the server and for the script before it. What earlier visitors asked for is
named in the page's head, and is loaded beside the rest.

What stands in place of elements that are not loaded yet stands still: Streamlit lets it pulse, sixty frames a second,
which without a GPU are drawn by the processor that the page waits for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEAD_ENDS = b"</head>"
_STILL = "".join(
    f'<style>[data-testid="{name}"], [data-testid="{name}"] * {{ animation: none !important; }}</style>'
    for name in ("stAppSkeleton", "stSkeleton")
)
_NAME = re.compile(r"[\w.~-]+\.js")  # nothing that would be markup in a page


class Preloads:
    """Adds links to the HTML that `app` answers.

    scripts: relative addresses of scripts that every visit needs. modules: the folder of the modules that are named
    once somebody asked for them. At most `limit` modules. base: path under which all of it is.
    """

    def __init__(self, app: ASGIApp, scripts: Sequence[str], modules: str, limit: int = 200, base: str = "") -> None:
        self._app, self._modules, self._limit, self._base = app, base + modules, limit, base
        self._links = [f'<link rel="preload" as="script" href="{address}">' for address in scripts]
        self._asked: dict[str, None] = {}  # in the order of the first request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        is_module = path.startswith(self._modules) and _NAME.fullmatch(path.removeprefix(self._modules))
        await self._app(scope, receive, self._noting(path, send) if is_module else self._linking(send))

    def _noting(self, path: str, send: Send) -> Send:
        """`send`, which also notes a module that exists."""

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200 and len(self._asked) < self._limit:
                self._asked.setdefault(path)
            await send(message)

        return note

    def _linking(self, send: Send) -> Send:
        """`send`, which adds the links to a whole page in HTML."""
        started: Message | None = None
        body = bytearray()

        async def link(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start" and _is_page(message):
                started = message
                return
            if started is None:
                await send(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body", False):
                return
            page = self._linked(bytes(body))
            MutableHeaders(raw=started["headers"])["content-length"] = str(len(page))
            await send(started)
            await send({"type": "http.response.body", "body": page})

        return link

    def _linked(self, page: bytes) -> bytes:
        missing = [path for path in self._asked if path.rpartition("/")[2].encode() not in page]
        modules = [
            f'<link rel="modulepreload" crossorigin href=".{path.removeprefix(self._base)}">' for path in missing
        ]
        return page.replace(_HEAD_ENDS, "".join([_STILL, *self._links, *modules]).encode() + _HEAD_ENDS, 1)


def _is_page(message: Message) -> bool:
    headers = Headers(raw=message["headers"])
    is_html = headers.get("content-type", "").startswith("text/html") and "content-encoding" not in headers
    return message["status"] == 200 and is_html
