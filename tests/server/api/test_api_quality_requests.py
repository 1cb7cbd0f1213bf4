"""A request's id goes from the client through the answer, the problem and the log; no line of it can be forged."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from steadynorm_server.runtime.logging import FORMATS


@pytest.fixture(params=["json", "text"])
def log(request: pytest.FixtureRequest) -> Iterator[tuple[str, io.StringIO]]:
    """What the server logs, every request too, and in which form."""
    written, logger = io.StringIO(), logging.getLogger("steadynorm_server")
    handler = logging.StreamHandler(written)
    handler.setFormatter(FORMATS[request.param]())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield request.param, written
    logger.removeHandler(handler)
    logger.setLevel(level)


async def test_an_id_is_returned_named_in_the_problem_and_logged(api: Any, log: tuple[str, io.StringIO]) -> None:
    form, written = log
    answer = await api.get("/runs/unknown", headers={"X-Request-ID": "from-me-1"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "from-me-1"
    (line,) = written.getvalue().splitlines()
    if form == "text":
        assert "GET /api/v1/runs/unknown 404 [from-me-1] in " in line
        return
    found = json.loads(line)
    assert found["ms"] >= 0
    assert {name: found[name] for name in ("level", "method", "path", "route", "status", "request_id")} == {
        "level": "info", "method": "GET", "path": "/api/v1/runs/unknown", "route": "/api/v1/runs/{run_id}",
        "status": 404, "request_id": "from-me-1",
    }  # fmt: skip


async def test_without_an_id_or_with_a_bad_one_the_server_makes_one(api: Any) -> None:
    given: list[dict[str, str]] = [{}, {}, *({"X-Request-ID": bad} for bad in ("a b", "x" * 129, "{}", '"'))]
    made = [(await api.get("/runs", headers=headers)).headers["x-request-id"] for headers in given]
    assert len(set(made)) == 6
    assert all(len(each) == 16 and each.isalnum() for each in made)


@pytest.mark.parametrize("path", ["/runs/a%0Ab", "/runs/a%22%7D%0D%0A%7B", "/runs/%1B[2J", "/runs/%ED%A0%80"])
async def test_no_path_can_forge_a_line(api: Any, log: tuple[str, io.StringIO], path: str) -> None:
    form, written = log
    await api.get(path)
    (line,) = written.getvalue().splitlines()
    assert line.isprintable()
    if form == "json":
        assert json.loads(line)["status"] == 404


async def test_tokens_and_queries_are_not_logged(api: Any, log: tuple[str, io.StringIO]) -> None:
    _, written = log
    await api.get("/runs?name=secret-name", headers={"Authorization": "Bearer secret-token"})
    assert "401" in written.getvalue()
    assert "secret" not in written.getvalue()


async def test_an_error_of_our_own_is_logged_with_its_id_and_traceback(
    api: Any, log: tuple[str, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    form, written = log

    async def broken() -> None:
        raise ValueError("this is broken")

    monkeypatch.setattr(api.app.state.repository, "check", broken)
    with pytest.raises(ValueError, match="this is broken"):  # httpx passes on what a server's log would get
        await api.get("http://test/readyz", headers={"X-Request-ID": "bad-day"})
    text = written.getvalue()
    assert "Traceback" in text
    assert "ValueError: this is broken" in text
    if form == "json":
        lines = [json.loads(line) for line in text.splitlines()]
        assert {line["request_id"] for line in lines} == {"bad-day"}
        assert [line["level"] for line in lines] == ["error", "warning"]
