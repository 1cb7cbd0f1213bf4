"""What a run was started with is stored, shown, searched, and gone with the run."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from steadynorm_server.runs.fleet import Fleet

CONFIG = {
    "optimizer": {"lr": 0.001, "betas": [0.9, 0.95]},
    "data": [{"name": "<b>wiki</b>"}],
    "deep": {"a": {"b": None}},
}


def _nested(depth: int) -> Any:
    return {"x": _nested(depth - 1)} if depth else 1


async def test_the_newest_start_is_what_is_shown_and_searched(api: Any, make_agent: Any) -> None:
    api.app.state.fleet = Fleet(api.app.state.repository, fresh_s=0)
    agent = make_agent(api, config=CONFIG, environment={"git.commit": "abc123", "library.torch": "2.13.0"})
    await agent.register()
    shown = await agent.get("/configuration")
    assert shown == {"config": CONFIG, "environment": {"git.commit": "abc123", "library.torch": "2.13.0"}}
    for words, found in (
        ("optimizer.lr=0.001", 1),
        ("git.commit=abc123", 1),
        ("data.0.name=<b>wiki", 1),
        ("optimizer.lr=0.002", 0),
        ("2.13.0", 0),  # not of what is searched: every run has it
    ):
        listed = (await api.get("/fleet", params={"search": words})).json()
        assert listed["matching"] == found, words
    agent.registration.config, agent.registration.instance = {"optimizer": {"lr": 0.002}}, "another"
    await agent.register()
    assert (await agent.get("/configuration"))["config"] == {"optimizer": {"lr": 0.002}}
    assert (await api.get("/fleet", params={"search": "optimizer.lr=0.002"})).json()["matching"] == 1


async def test_a_run_of_an_older_agent_has_none(agent: Any) -> None:
    assert await agent.get("/configuration") == {"config": {}, "environment": {}}
    assert (await agent.client.get("/runs/nobody/configuration")).status_code == 404


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"config": {"x": "y" * 70_000}}, 422, "config must take at most 65536 bytes as JSON"),
        ({"config": {"x": _nested(21)}}, 422, "config must be nested at most 20 deep"),
        ({"config": [1]}, 400, "Expected `object`"),
        ({"environment": {f"n{at}": "x" for at in range(101)}}, 422, "at most 100 of at most 1000 characters each"),
        ({"environment": {"x": "y" * 1001}}, 422, "at most 100 of at most 1000 characters each"),
        ({"environment": {"x": 1}}, 400, "Expected `str`"),
    ],
)
async def test_malformed_ones_are_refused(
    api: Any, make_agent: Any, changes: dict[str, Any], status: int, says: str
) -> None:
    body = msgspec.to_builtins(make_agent(api).registration) | changes
    answer = await api.post("/runs", content=msgspec.json.encode(body))
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"]
