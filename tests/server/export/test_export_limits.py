"""Exports hold few files, none for a client that does not read or has gone; a full disk is a problem that says so."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from steadynorm_server.api.routes import export as route
from steadynorm_server.export import downloads


async def call(client: Any, send: Any, receive: Any) -> None:
    """GET an export as a server would that has `send` and `receive`."""
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": "/api/v1/runs/tiny-1/export", "raw_path": b"/api/v1/runs/tiny-1/export",
        "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1), "server": ("test", 80),
        "headers": [(b"host", b"test"), (b"authorization", client.headers["authorization"].encode())],
    }  # fmt: skip
    await client.app(scope, receive, send)


async def test_a_client_that_takes_nothing_is_left_and_its_file_given_back(serve: Any, make_agent: Any) -> None:
    agent = make_agent(await serve(request_within_s=0.3))
    await agent.register()
    agent.client.app.state.exports = downloads.ExportLimits(files=1, waiting=1)
    sent = []

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # its window is full

    await asyncio.wait_for(call(agent.client, send, asyncio.Event().wait), 20)
    assert sent == ["http.response.start", "http.response.body"]
    assert (await agent.client.get(f"{agent.run}/export")).status_code == 200


async def test_nothing_is_made_for_a_client_that_has_gone(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(route, "write", lambda *given: made.append(given))

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    sent: list[Any] = []
    await call(agent.client, send, gone)
    assert made == []
    assert sent[0]["status"] == 400, "not for another reason"


async def test_who_would_wait_behind_many_is_told_to_come_again(agent: Any) -> None:
    held = agent.client.app.state.exports = downloads.ExportLimits(files=1, waiting=0)
    async with held.file():
        answer = await agent.client.get(f"{agent.run}/export")
        assert (answer.status_code, answer.json()["title"]) == (503, "Too many exports")
        assert answer.headers["retry-after"] == "10"
    assert (await agent.client.get(f"{agent.run}/export")).status_code == 200


async def test_a_full_disk_is_a_problem_that_names_the_folder(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(route, "write", full)
    answer = await agent.client.get(f"{agent.run}/export")
    assert answer.status_code == 503
    assert "No space left on device" in answer.json()["detail"]
    assert "TMPDIR" in answer.json()["detail"]
