"""Every answer says what a browser must not do with it, whatever the answer is; /docs works under its policy."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser

from steadynorm_server.middleware.security_headers import SecurityHeaders

ADDRESSES = [
    "/api/v1/runs",
    "/api/v1/runs/nothing",
    "/nothing",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/",
]


def check(answer: Any) -> None:
    got = answer.headers
    assert got["x-content-type-options"] == "nosniff"
    assert got["x-frame-options"] == "DENY"
    assert got["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in got["content-security-policy"]
    assert "frame-ancestors 'none'" in got["content-security-policy"]
    assert got["cache-control"] == "no-store"
    assert "server" not in got
    assert "strict-transport-security" not in got  # plain HTTP on loopback has nothing to insist on


@pytest.mark.parametrize("address", ADDRESSES)
async def test_every_answer_has_the_headers(api: Any, address: str) -> None:
    check(await api.get(f"http://test{address}"))


async def test_refusals_have_them_too(api: Any) -> None:
    check(await api.get("/runs", headers={"Authorization": "Bearer wrong"}))
    check(await api.put("/runs"))
    check(await api.post("/runs", content=b"{"))
    check(await api.post("/runs", content=bytes(34_000_000)))


async def test_an_answer_to_an_error_of_our_own_has_them_too() -> None:
    app = FastAPI()

    @app.get("/broken")
    async def broken() -> None:
        raise KeyError("a defect")

    import httpx

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(SecurityHeaders(app, tls=True), raise_app_exceptions=False)
    ) as client:
        answer = await client.get("http://test/broken")
    assert answer.status_code == 500
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_the_documentation_works_under_its_policy(stack: Any, browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    violations: list[str] = []
    page.on("console", lambda said: violations.append(said.text) if "Content Security Policy" in said.text else None)
    # What the page takes from elsewhere is stood in for: the policy is judged by the browser all the same.
    elsewhere: list[str] = []

    def stand_in(route: Any) -> None:
        elsewhere.append(route.request.url)
        script = "window.SwaggerUIBundle = given => { window.given = given }; SwaggerUIBundle.presets = {};"
        script += "SwaggerUIBundle.SwaggerUIStandalonePreset = {};"
        kind = route.request.url.rpartition(".")[2]
        bodies = {"js": ("text/javascript", script), "css": ("text/css", "")}
        content_type, body = bodies.get(kind, ("image/png", ""))
        route.fulfill(content_type=content_type, body=body)

    page.route(re.compile("^https://"), stand_in)
    page.goto(f"{stack.server}/docs")
    assert page.evaluate("new URL(window.given.url, location).pathname") == "/openapi.json"
    assert page.evaluate("fetch(window.given.url).then(answer => answer.json()).then(found => found.info.title)")
    assert {url.rpartition(".")[2] for url in elsewhere} >= {"js", "css"}
    assert violations == []
    page.evaluate("document.body.appendChild(document.createElement('script')).textContent = 'window.injected = 1'")
    assert page.evaluate("window.injected") is None
    assert len(violations) == 1
    context.close()
