"""Files that never change are packed once and kept; all else passes through untouched."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from steadynorm_dashboard.components.static_files import StaticFileCache

SCRIPT = b"const steady = 1;\n" * 500
FONT = gzip.compress(bytes(range(256)) * 8)
FOREVER = {"Cache-Control": "public, immutable, max-age=31536000"}


class Site:
    """An application that counts what it is asked for."""

    def __init__(self, **options: int) -> None:
        self.asked: list[str] = []
        routes = [
            Route("/static/font.woff2", self.font),
            Route("/static/{name}", self.script),
            Route("/", self.page),
            Route("/packed.js", self.packed),
        ]
        self.kept = StaticFileCache(Starlette(routes=routes), **options)

    async def script(self, request: Request) -> Response:
        self.asked.append(request.url.path)

        async def parts() -> AsyncIterator[bytes]:
            yield SCRIPT[:1000]
            yield SCRIPT[1000:]

        private = {"Set-Cookie": "visitor=1", "ETag": '"1"'}
        if request.url.path.endswith("missing.js"):
            return Response("nothing", 404, FOREVER)
        return StreamingResponse(parts(), media_type="text/javascript", headers=FOREVER | private)

    async def font(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        return Response(FONT, media_type="font/woff2", headers=FOREVER)

    async def page(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        return Response("<p>page</p>" * 200, media_type="text/html", headers={"Cache-Control": "no-cache"})

    async def packed(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        body = gzip.compress(SCRIPT, mtime=0)
        return Response(body, media_type="text/javascript", headers=FOREVER | {"Content-Encoding": "gzip"})

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """The answer, once what it leaves to do is done."""
        transport = httpx.ASGITransport(self.kept)
        async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as client:
            answer = await client.get(path, headers=headers)
        await self.kept.settled()
        return answer


async def test_the_second_visitor_gets_the_packed_file_without_the_application() -> None:
    site = Site()
    first, second = await site.get("/static/a.js"), await site.get("/static/a.js?again")
    assert first.content == second.content == SCRIPT
    assert "content-encoding" not in first.headers
    assert second.headers["content-encoding"] == "gzip"
    assert second.headers["vary"] == "Accept-Encoding"
    assert int(second.headers["content-length"]) < len(SCRIPT) / 10
    assert second.headers["cache-control"] == FOREVER["Cache-Control"]
    assert second.headers["content-type"] == first.headers["content-type"]
    assert site.asked == ["/static/a.js"]


async def test_what_belongs_to_one_visitor_is_not_kept_for_others() -> None:
    site = Site()
    first, second = await site.get("/static/a.js"), await site.get("/static/a.js")
    assert "set-cookie" in first.headers
    assert "set-cookie" not in second.headers


async def test_a_file_that_packing_does_not_shrink_is_kept_as_it_is() -> None:
    site = Site()
    first, second = await site.get("/static/font.woff2"), await site.get("/static/font.woff2")
    assert first.content == second.content == FONT
    assert "content-encoding" not in second.headers
    assert len(site.asked) == 1


@pytest.mark.parametrize("path", ["/", "/packed.js", "/static/missing.js"])
async def test_what_may_change_is_packed_already_or_is_an_error_passes_each_time(path: str) -> None:
    site = Site()
    first, second = await site.get(path), await site.get(path)
    assert first.content == second.content
    assert len(site.asked) == 2 or first.status_code == 404
    assert first.headers.raw == second.headers.raw


@pytest.mark.parametrize(
    ("name", "value"),
    [("accept-encoding", "identity"), ("range", "bytes=0-9"), ("if-none-match", '"1"'), ("if-range", '"1"')],
)
async def test_a_browser_that_asks_for_another_form_of_the_file_gets_the_applications_answer(
    name: str, value: str
) -> None:
    site = Site()
    await site.get("/static/a.js")
    answer = await site.get("/static/a.js", **{name: value})
    assert answer.content == SCRIPT
    assert "content-encoding" not in answer.headers
    assert len(site.asked) == 2


async def test_no_more_is_held_than_allowed() -> None:
    site = Site(limit_bytes=10)
    await site.get("/static/a.js")
    await site.get("/static/a.js")
    assert len(site.asked) == 2
