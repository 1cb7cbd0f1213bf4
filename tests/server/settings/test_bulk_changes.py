"""One change to many runs: shown first, made run by run, each on condition that nobody was faster."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from redis.exceptions import ConnectionError as StoreAway

from steadynorm_contract.codec import encode_json


@pytest.fixture
async def fleet(api: httpx.AsyncClient, make_agent: Any) -> dict[str, Any]:
    """Five agents by the id of their run: three of team nlp, of which one has ended and one allows gamma1 only."""
    wanted: dict[str, dict[str, Any]] = {
        "gpt-1": {"name": "gpt-small", "tags": {"team": "nlp"}},
        "gpt-2": {"name": "gpt-large", "tags": {"team": "nlp"}, "allow": ["gamma1"]},
        "gpt-3": {"name": "gpt-old", "tags": {"team": "nlp"}},
        "vit-1": {"name": "vit", "tags": {"team": "vision"}},
        "gpt-4": {"name": "gpt-tiny", "tags": {"team": "edge"}},
    }
    agents = {run_id: make_agent(api, run_id=run_id, **more) for run_id, more in wanted.items()}
    for agent in agents.values():
        await agent.register()
    await api.post("/runs/gpt-3/finish", content=encode_json({"state": "finished"}))
    return agents


async def ask(api: httpx.AsyncClient, select: Any, settings: Any, **more: Any) -> httpx.Response:
    """POST a bulk change."""
    return await api.post("/settings/bulk", content=encode_json({"select": select, "settings": settings, **more}))


def by_run(answer: httpx.Response) -> dict[str, tuple[str, int | None]]:
    """Outcome and revision of each run in an answer."""
    assert answer.status_code == 200, answer.text
    return {row["run_id"]: (row["outcome"], row["revision"]) for row in answer.json()["runs"]}


async def test_a_preview_says_what_would_happen_to_each_run_and_changes_nothing(
    api: httpx.AsyncClient, fleet: dict[str, Any]
) -> None:
    answer = await ask(api, {"name": "gpt-*"}, {"gamma2": 0.99})
    assert by_run(answer) == {
        "gpt-1": ("change", 0),
        "gpt-2": ("rejected", 0),
        "gpt-3": ("ended", 0),
        "gpt-4": ("change", 0),
    }
    shown = {row["run_id"]: row for row in answer.json()["runs"]}
    assert (shown["gpt-1"]["before"], shown["gpt-1"]["after"]) == ({"gamma2": 0.999}, {"gamma2": 0.99})
    assert "allows gamma1" in shown["gpt-2"]["why"]
    assert answer.json()["revisions"] == {"gpt-1": 0, "gpt-4": 0}
    for agent in fleet.values():
        assert (await agent.get("/settings"))["revision"] == 0
        assert (await agent.get("/audit"))["entries"] == []


async def test_the_change_is_made_to_what_was_previewed_with_one_audit_entry_each(
    api: httpx.AsyncClient, fleet: dict[str, Any]
) -> None:
    select, settings = {"name": "gpt-*"}, {"gamma2": 0.99, "reset_generation": "+1"}
    await fleet["gpt-1"].change(0, {"reset_generation": 4})
    revisions = (await ask(api, select, settings)).json()["revisions"]
    assert revisions == {"gpt-1": 1, "gpt-4": 0}
    await fleet["gpt-4"].change(0, {"gamma1": 0.5})  # somebody is faster
    answer = await ask(api, select, settings, dry_run=False, revisions=revisions, reason="spikes everywhere")
    outcomes = by_run(answer)
    assert (outcomes["gpt-1"], outcomes["gpt-4"]) == (("changed", 2), ("conflict", 1))
    assert (await fleet["gpt-1"].get("/settings"))["settings"]["reset_generation"] == 5
    newest = (await fleet["gpt-1"].get("/audit"))["entries"][0]
    assert (newest["reason"], newest["actor"]) == ("spikes everywhere", "local")
    assert newest["after"] == {"gamma2": 0.99, "reset_generation": 5}
    assert (await fleet["gpt-4"].get("/settings"))["settings"]["gamma2"] == 0.999
    again = await ask(api, select, settings, dry_run=False, revisions=revisions)  # a repeat does no more
    assert by_run(again)["gpt-1"] == ("conflict", 2)
    assert len((await fleet["gpt-1"].get("/audit"))["entries"]) == 2


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ({"tags": {"team": "nlp"}}, {"gpt-1", "gpt-2", "gpt-3"}),
        ({"name": "gpt-*", "tags": {"team": "edge"}}, {"gpt-4"}),
        ({"run_ids": ["vit-1", "nobody", "../x", "vit-1"]}, {"vit-1"}),
        ({"name": "*"}, {"gpt-1", "gpt-2", "gpt-3", "gpt-4", "vit-1"}),
        ({"name": "GPT-*"}, set()),
    ],
)
async def test_runs_are_selected_by_name_tags_and_ids(
    api: httpx.AsyncClient, fleet: dict[str, Any], select: Any, expected: set[str]
) -> None:
    assert fleet
    assert set(by_run(await ask(api, select, {"gamma1": 0.5}))) == expected


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"select": {}, "settings": {}}, 422, "must name runs"),
        ({"select": {"name": "*"}, "settings": {"gamma2": 1.0}}, 422, "gamma2 must be in"),
        ({"select": {"name": "*"}, "settings": {"shiny": 1}}, 422, "shiny"),
        ({"select": {"name": "*"}, "settings": {"gamma2": 0.9}, "dry_run": False}, 428, "revisions of its preview"),
        ({"select": {"name": "*"}, "settings": {}, "reason": "x" * 501}, 422, "reason"),
        ({"select": {"run_ids": ["r"] * 1001}, "settings": {}}, 422, "at most 1000 runs"),
        ({"select": {"nmae": "*"}, "settings": {}}, 400, "nmae"),
    ],
)
async def test_what_cannot_be_meant_is_refused_whole(
    api: httpx.AsyncClient, fleet: dict[str, Any], body: Any, status: int, said: str
) -> None:
    answer = await api.post("/settings/bulk", content=encode_json(body))
    assert (answer.status_code, said in answer.text) == (status, True), answer.text
    assert (await fleet["vit-1"].get("/settings"))["revision"] == 0


async def test_a_store_that_fails_in_the_middle_leaves_no_doubt_about_the_other_runs(
    api: httpx.AsyncClient, make_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = {run_id: make_agent(api, run_id=run_id, instance=run_id) for run_id in ("a", "b", "c", "d")}
    for agent in agents.values():
        await agent.register()
    select, settings = {"name": "*"}, {"gamma2": 0.99}
    revisions = (await ask(api, select, settings)).json()["revisions"]
    redis = api.app.state.repository.redis  # type: ignore[attr-defined]
    real = redis.script

    async def script(name: str, keys: list[str], *args: Any) -> Any:
        if name == "change" and "{c}" in keys[0]:
            raise StoreAway("its master is away")
        return await real(name, keys, *args)

    monkeypatch.setattr(redis, "script", script)
    answer = await ask(api, select, settings, dry_run=False, revisions=revisions)
    assert by_run(answer) == {"a": ("changed", 1), "b": ("changed", 1), "c": ("unknown", 0), "d": ("changed", 1)}
    (why,) = [row["why"] for row in answer.json()["runs"] if row["run_id"] == "c"]
    assert "read the run again" in why
    for run_id, agent in agents.items():
        assert (await agent.get("/settings"))["revision"] == (0 if run_id == "c" else 1)


async def test_runs_that_the_store_keeps_waiting_do_not_hold_up_the_others(
    api: httpx.AsyncClient, make_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in ("slow", "quick"):
        await make_agent(api, run_id=run_id, instance=run_id).register()
    revisions = (await ask(api, {"name": "*"}, {"gamma2": 0.99})).json()["revisions"]
    redis, changed = api.app.state.repository.redis, asyncio.Event()  # type: ignore[attr-defined]
    real = redis.script

    async def script(name: str, keys: list[str], *args: Any) -> Any:
        if "{slow}" in keys[0]:  # hangs, until the other one is done
            await asyncio.wait_for(changed.wait(), 10)
            raise StoreAway("no answer")
        found = await real(name, keys, *args)
        changed.set()
        return found

    monkeypatch.setattr(redis, "script", script)
    select = {"run_ids": ["slow", "quick"]}
    answer = await ask(api, select, {"gamma2": 0.99}, dry_run=False, revisions=revisions)
    assert by_run(answer) == {"slow": ("unknown", 0), "quick": ("changed", 1)}


async def test_a_store_that_fails_for_all_runs_is_a_503(
    api: httpx.AsyncClient, make_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_agent(api).register()
    revisions = (await ask(api, {"name": "*"}, {"gamma2": 0.99})).json()["revisions"]

    async def script(*_: Any) -> Any:
        raise StoreAway("away")

    monkeypatch.setattr(api.app.state.repository.redis, "script", script)  # type: ignore[attr-defined]
    answer = await ask(api, {"name": "*"}, {"gamma2": 0.99}, dry_run=False, revisions=revisions)
    assert (answer.status_code, answer.json()["title"]) == (503, "Redis unavailable")
