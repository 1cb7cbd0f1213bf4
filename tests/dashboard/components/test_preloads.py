"""The page names the scripts that earlier visitors asked for, and nothing that only somebody asked for."""

from __future__ import annotations

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from steadynorm_dashboard.components.preloads import Preloads

PAGE = '<html><head><script type="module" src="./static/js/index.a.js"></script></head><body>\u00e9</body></html>'


async def _script(request: Request) -> Response:
    return Response("", 404 if "missing" in request.url.path else 200, media_type="text/javascript")


async def _page(_request: Request) -> Response:
    return HTMLResponse(PAGE)


def _app(limit: int = 10) -> Preloads:
    routes = [Route("/static/js/{name:path}", _script), Route("/", _page)]
    return Preloads(Starlette(routes=routes), ["library/plotly.js"], "/static/js/", limit)


async def _get(app: Preloads, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://dashboard") as client:
        return await client.get(path)


async def test_the_page_names_what_an_earlier_visitor_asked_for_in_that_order() -> None:
    app = _app()
    first = await _get(app, "/")
    assert '<link rel="preload" as="script" href="library/plotly.js"></head>' in first.text
    assert "modulepreload" not in first.text
    for name in ("index.a.js", "chart.b.js", "button.c.js", "chart.b.js"):
        assert (await _get(app, f"/static/js/{name}")).status_code == 200
    page = await _get(app, "/")
    named = [part.split('"')[0] for part in page.text.split('rel="modulepreload" crossorigin href="')[1:]]
    assert named == ["./static/js/chart.b.js", "./static/js/button.c.js"]  # the page names index.a.js itself
    assert int(page.headers["content-length"]) == len(page.content)
    assert page.text.endswith("\u00e9</body></html>")


async def test_what_is_missing_is_no_module_or_would_be_markup_is_not_named() -> None:
    app = _app(limit=1)
    for path in ("missing.js", "style.css", "a%22%3E%3Cscript%3E.js", "deeper/a.js", "good.js", "one-too-many.js"):
        await _get(app, f"/static/js/{path}")
    page = await _get(app, "/")
    assert page.text.count("modulepreload") == 1
    assert "./static/js/good.js" in page.text
    assert "<script>" not in page.text


async def test_what_stands_in_place_of_elements_that_are_not_loaded_yet_stands_still() -> None:
    head = (await _get(_app(), "/")).text.partition("</head>")[0]
    for name in ("stAppSkeleton", "stSkeleton"):
        assert f'[data-testid="{name}"] * {{ animation: none !important; }}' in head
