"""Reads in pages and by condition: every run and event once, in order, and nothing sent twice."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
async def many(api: Any, make_agent: Any, clock: Any) -> list[Any]:
    """Seven runs, the last three at the same moment; the even ones are of team a, and run 3 is finished."""
    agents = []
    for at in range(7):
        clock.now += 1 if at < 5 else 0
        tags = {"team": "ab"[at % 2], **({"big": ""} if at == 4 else {})}
        agents.append(make_agent(api, run_id=f"run-{at}", name=f"gpt-{6 - at}", tags=tags))
        await agents[-1].register()
        await agents[-1].send([at + 1])
    await api.post(f"{agents[3].run}/finish", json={"state": "finished"})
    return agents


async def listed(api: Any, **query: Any) -> list[str]:
    answer = await api.get("/runs", params=query)
    assert answer.status_code == 200, answer.text
    return [run["run_id"].removeprefix("run-") for run in answer.json()["runs"]]


@pytest.mark.parametrize("sort", ["-started", "started", "name", "-name", "-last_seen", "step", "-step"])
@pytest.mark.parametrize("limit", [1, 3, 7])
async def test_pages_hold_every_run_once_in_the_order_of_the_whole(
    many: list[Any], api: Any, sort: str, limit: int
) -> None:
    whole, paged, cursor = await listed(api, sort=sort), [], None
    while True:
        query = {"sort": sort, "limit": limit} | ({"cursor": cursor} if cursor else {})
        page = (await api.get("/runs", params=query)).json()
        assert len(page["runs"]) <= limit
        paged += [run["run_id"].removeprefix("run-") for run in page["runs"]]
        if (cursor := page["next"]) is None:
            break
    assert paged == whole
    assert sorted(whole) == list("0123456")


async def test_a_run_that_begins_between_two_pages_moves_none(many: list[Any], api: Any, make_agent: Any) -> None:
    first = (await api.get("/runs", params={"limit": 3})).json()
    await make_agent(api, run_id="run-new", name="new").register()
    rest = await listed(api, cursor=first["next"])
    assert [run["run_id"].removeprefix("run-") for run in first["runs"]] + rest == list("6543210")


async def test_filters_narrow_and_combine(many: list[Any], api: Any) -> None:
    assert await listed(api) == list("6543210")
    assert await listed(api, state="finished") == ["3"]
    assert await listed(api, state=["finished", "running"]) == list("6543210")
    assert await listed(api, tag="team=a") == list("6420")
    assert await listed(api, tag=["team=a", "big"]) == ["4"]
    assert await listed(api, name="gpt-[01]") == ["6", "5"]
    assert await listed(api, name="gpt") == []
    assert await listed(api, health="calm", tag="team=b", sort="name") == ["5", "3", "1"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "cursor=x", "cursor=W10", "sort=loss", "state=gone", "cursor=%C3%A9"]
)
async def test_a_bad_question_is_told_its_rule(api: Any, query: str) -> None:
    answer = await api.get(f"/runs?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith(query.partition("=")[0])


async def test_events_and_audit_come_in_pages(agent: Any) -> None:
    for revision in range(5):
        await agent.change(revision, {"gamma2": 0.9 + revision / 100}, reason=str(revision))
        await agent.send([revision * 20 + 1], spikes=1, spike_ratio_max=20.0, spike_parameter=0)
    for what in ("events", "entries"):
        path = "/audit" if what == "entries" else "/events"
        whole = await agent.get(path)
        assert (len(whole[what]) >= 5, whole["next"]) == (True, None)
        paged: list[Any] = []
        page = await agent.get(path, limit=2)
        while page["next"]:
            paged += page[what]
            page = await agent.get(path, limit=2, cursor=page["next"])
        assert paged + page[what] == whole[what]
        for bad in ("x", "0-0", "-", "1-0)", "%2B"):
            assert (await agent.client.get(f"{agent.run}{path}?cursor={bad}")).status_code == 422
        assert (await agent.get(path, cursor="1-0"))[what] == []
