"""Runs are renamed, archived, deleted and restored; who did so is stored; what is heard from is listed again."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.support.server import all_runs, recorded_commands

from steadynorm_contract.audit import AuditList
from steadynorm_contract.codec import encode_json
from steadynorm_contract.lifecycle import lifecycle_words, verify_lifecycle
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig
from steadynorm_server.retention.policy import Limits, delete_expired
from steadynorm_server.runs.fleet import Fleet
from steadynorm_server.runs.repository import RunRepository

DAY_S = 86_400
FOR_A_WEEK = Limits(keep_days=7)


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough: the script is that of retention, which both kinds run."""
    return empty_valkey


async def update(agent: Any, **wanted: Any) -> httpx.Response:
    answer: httpx.Response = await agent.client.patch(agent.run, content=encode_json(wanted))
    return answer


async def delete(agent: Any, **query: Any) -> httpx.Response:
    answer: httpx.Response = await agent.client.delete(agent.run, params=query)
    return answer


async def restore(agent: Any) -> httpx.Response:
    answer: httpx.Response = await agent.client.post(f"{agent.run}/restore", content=b'{"reason": "too early"}')
    return answer


async def listed(agent: Any, **query: Any) -> list[str]:
    return [run["run_id"] for run in (await agent.client.get("/runs", params=query)).json()["runs"]]


@pytest.fixture
async def ended(agent: Any, clock: Any) -> Any:
    """An agent whose run has ended a minute ago."""
    await agent.send([1])
    await agent.client.post(f"{agent.run}/finish", content=b'{"state": "finished"}')
    clock.now += 60
    return agent


async def test_an_archived_run_is_hidden_and_kept_until_it_is_listed_again(
    ended: Any, repository: RunRepository, clock: Any
) -> None:
    answer = await update(ended, archived=True, reason="an old sweep")
    assert (answer.status_code, answer.json()["archived"]) == (200, clock.now)
    assert await listed(ended) == []
    assert await listed(ended, visibility="archived") == ["tiny-1"]
    assert await listed(ended, visibility=["listed", "archived", "deleted"]) == ["tiny-1"]
    clock.now += 30 * DAY_S
    assert (await ended.get("/retention"))["expires"] is None
    assert await delete_expired(repository, await all_runs(repository), FOR_A_WEEK) == []
    assert (await update(ended, archived=False)).json()["archived"] is None
    assert await listed(ended) == ["tiny-1"]
    entries = (await ended.get("/audit"))["lifecycle"]
    assert [(each["actor"], each["reason"], list(each["after"])) for each in entries] == [
        ("local", "", ["archived"]),
        ("local", "an old sweep", ["archived"]),
    ]
    # It is kept for as long anew: who listed it again a moment ago wants it.
    assert await delete_expired(repository, await all_runs(repository), FOR_A_WEEK) == []
    clock.now += 8 * DAY_S
    assert await delete_expired(repository, await all_runs(repository), FOR_A_WEEK) == ["tiny-1"]


async def test_a_limit_of_its_own_removes_an_archived_run_too(
    ended: Any, repository: RunRepository, clock: Any
) -> None:
    await ended.client.put(f"{ended.run}/retention", content=b'{"keep_days": 1}')
    await update(ended, archived=True)
    clock.now += 2 * DAY_S
    assert await delete_expired(repository, await all_runs(repository), Limits()) == ["tiny-1"]


async def test_a_deleted_run_can_be_restored_until_the_sweeper_removes_it(
    ended: Any, repository: RunRepository, clock: Any
) -> None:
    assert (await delete(ended, grace=600, reason="a typo")).status_code == 204
    assert (await ended.get())["deletes_at"] == clock.now + 600
    assert await listed(ended) == await listed(ended, visibility="archived") == []
    assert await listed(ended, visibility="deleted") == ["tiny-1"]
    refused = await update(ended, name="other")
    assert (refused.status_code, "restore it" in refused.json()["detail"]) == (409, True)
    clock.now += 599
    judged = await all_runs(repository)
    assert await delete_expired(repository, judged, Limits()) == []
    assert (await restore(ended)).json()["deletes_at"] is None
    clock.now += 2
    assert await delete_expired(repository, judged, Limits()) == []  # as the sweeper read it before it was restored
    assert await listed(ended) == ["tiny-1"]
    assert [each["reason"] for each in (await ended.get("/audit"))["lifecycle"]] == ["too early", "a typo"]
    assert (await restore(ended)).status_code == 200  # without effect
    assert len((await ended.get("/audit"))["lifecycle"]) == 2
    await delete(ended, grace=600)
    clock.now += 601
    assert await delete_expired(repository, await all_runs(repository), Limits()) == ["tiny-1"]
    assert (await restore(ended)).status_code == 404


async def test_a_delete_without_grace_removes_at_once_as_ever(agent: Any) -> None:
    assert (await delete(agent)).status_code == 204
    assert (await agent.client.get(agent.run)).status_code == 404


async def test_a_live_run_is_neither_archived_nor_deleted_and_the_answer_says_what_to_do(
    agent: Any, clock: Any
) -> None:
    for answer in (await update(agent, archived=True), await delete(agent, grace=60)):
        assert answer.status_code == 409
        assert "is live. Stop it first (`steadynorm set tiny-1 stop=true`), then" in answer.json()["detail"]
        assert "If it trains on, its loop does not read agent.should_stop: end its process" in answer.json()["detail"]
    clock.now += 3600  # its process is gone
    assert (await update(agent, archived=True)).status_code == 200
    assert (await delete(agent, grace=60)).status_code == 204


@pytest.mark.parametrize("sign", ["telemetry", "a poll", "a registration"])
async def test_a_run_that_is_heard_from_is_listed_again(
    agent: Any, repository: RunRepository, clock: Any, sign: str
) -> None:
    await agent.send([1])
    clock.now += 3600
    await update(agent, archived=True)
    await delete(agent, grace=60)
    judged = await all_runs(repository)
    assert await listed(agent) == []
    clock.now += 61
    match sign:
        case "telemetry":
            await agent.send([2])
        case "a poll":
            await agent.client.get(f"{agent.run}/settings", params={"after_revision": 0, "wait": 0.01})
        case _:
            await agent.register()
    assert await delete_expired(repository, judged, Limits()) == []
    assert await delete_expired(repository, await all_runs(repository), Limits()) == []
    assert await listed(agent) == ["tiny-1"]
    shown = await agent.get()
    assert shown["archived"] is shown["deletes_at"] is None


async def test_a_shown_name_changes_what_people_see_and_find_and_nothing_for_agents(
    serve: Any, make_agent: Any, tmp_path: Path
) -> None:
    def entry(name: str, role: str, *runs: str) -> dict[str, Any]:
        bound = {"runs": runs} if runs else {}
        return {"name": name, "role": role, "sha256": hashlib.sha256(name.encode()).hexdigest(), **bound}

    file = tmp_path / "tokens.json"
    file.write_text(
        json.dumps([entry("ops", "operator"), entry("mine", "agent", "tiny*"), entry("prod", "agent", "prod-*")])
    )
    client = await serve(Tokens.configured(ServerConfig(data=tmp_path, tokens_file=file)))
    client.headers["Authorization"] = "Bearer mine"
    agent = make_agent(client)
    await agent.register()
    client.headers["Authorization"] = "Bearer ops"
    answer = await update(agent, name="prod-7", reason="the one that we keep")
    assert (answer.json()["name"], answer.json()["registered_name"]) == ("prod-7", "tiny")
    assert await listed(agent, name="prod-*") == ["tiny-1"]
    assert await listed(agent, name="tiny") == []
    (entry_of,) = (await agent.get("/audit"))["lifecycle"]
    assert (entry_of["before"], entry_of["after"]) == ({"name": "tiny"}, {"name": "prod-7"})
    # The token that is bound to the new name does not reach the run; that of the run's agent still does.
    client.headers["Authorization"] = "Bearer prod"
    assert (await agent.post(agent.batch(1, [1]))).status_code == 403
    assert (await client.get(f"{agent.run}/settings")).status_code == 403
    client.headers["Authorization"] = "Bearer mine"
    await agent.send([1])
    await agent.register()
    client.headers["Authorization"] = "Bearer ops"
    assert (await agent.get())["name"] == "prod-7"
    assert (await update(agent, name="tiny")).json()["registered_name"] == ""
    assert (await update(agent, name="tiny")).status_code == 200  # without effect
    assert len((await agent.get("/audit"))["lifecycle"]) == 2


@pytest.mark.parametrize(
    ("wanted", "said"), [({"name": " "}, "not only spaces"), ({"name": "x" * 201}, "201 characters")]
)
async def test_a_bad_name_is_told_with_its_rule(agent: Any, wanted: dict[str, Any], said: str) -> None:
    answer = await update(agent, **wanted)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "name"
    assert said in answer.json()["detail"]


async def test_writes_at_once_lose_no_entry(ended: Any) -> None:
    answers = await asyncio.gather(*(update(ended, name=f"name-{at}") for at in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert len((await ended.get("/audit"))["lifecycle"]) == 5


@pytest.mark.usefixtures("without_sweeper")
async def test_each_write_takes_two_reads_and_one_script_and_the_list_of_runs_costs_what_it_did(
    ended: Any, store_url: str
) -> None:
    await update(ended, name="other")  # loads the script
    await listed(ended)  # reads all runs once
    async with recorded_commands(store_url) as commands:
        assert (await update(ended, archived=True)).status_code == 200
    sent = [each.name for each in commands if not each.in_script]
    assert sent == ["hgetall", "evalsha", "xadd", "hgetall", "hget"]  # the entry tells all processes to read it again
    for reads in (["hmget"], []):
        async with recorded_commands(store_url) as commands:
            await ended.client.get("/runs", params={"visibility": "archived"})
        assert sorted(each.name for each in commands) == ["hget", "hgetall", *reads, "xrange", "zcard", "zrevrange"]


async def test_the_fleet_counts_what_it_hides_and_groups_by_a_tag(api: Any, make_agent: Any, clock: Any) -> None:
    api.app.state.fleet = Fleet(api.app.state.repository, fresh_s=0, lines_fresh_s=0)
    agents = {}
    for name, team in (("lost", "a"), ("old", "b"), ("archived", "a"), ("deleted", "a")):
        agents[name] = make_agent(api, name=name, run_id=name, tags={"team": team})
        await agents[name].register()
        if name != "lost":
            await api.post(f"/runs/{name}/finish", json={"state": "failed"})
    clock.now += 2 * DAY_S
    assert (await update(agents["archived"], archived=True)).status_code == 200
    assert (await delete(agents["deleted"], grace=600)).status_code == 204
    for name, tags in (("failed", {}), ("calm", {"team": "b"}), ("spiking", {"team": "a"})):
        agents[name] = make_agent(api, name=name, run_id=name, tags=tags)
        await agents[name].register()
        await agents[name].send([1], spikes=int(name == "spiking"), spike_ratio_max=20.0 if name == "spiking" else 1.0)
    await api.post("/runs/failed/finish", json={"state": "failed"})

    async def look(**query: Any) -> tuple[list[str], dict[str, Any]]:
        answer = (await api.get("/fleet", params=query)).json()
        return [run["name"] for run in answer["runs"]], answer

    names, answer = await look(current=True)
    assert names == ["failed", "spiking", "calm"]
    counts = ("total", "current", "hidden", "archived", "deleted", "matching")
    assert [answer[each] for each in counts] == [5, 3, 2, 1, 1, 3]
    assert answer["states"] == {"running": 2, "failed": 2, "stalled": 1}
    assert answer["tags"] == {"team=a": 2, "team=b": 2}
    assert (await look())[0] == ["failed", "spiking", "calm", "lost", "old"]
    assert (await look(visibility="archived"))[0] == ["archived"]
    assert (await look(search="team=b"))[1]["archived"] == 0
    names, answer = await look(group="team")
    assert names == ["spiking", "lost", "calm", "old", "failed"]
    assert list(answer["groups"].items()) == [("a", 2), ("b", 2), ("", 1)]


async def test_what_was_done_with_a_run_is_a_chain_of_hashes(ended: Any) -> None:
    assert (await update(ended, name="renamed", reason="typo")).status_code == 200
    assert (await update(ended, archived=True)).status_code == 200
    assert (await delete(ended, grace=3600)).status_code == 204
    assert (await restore(ended)).status_code == 200
    audit = msgspec.json.decode((await ended.client.get(f"{ended.run}/audit")).content, type=AuditList)
    changes = audit.lifecycle
    assert [lifecycle_words(each) for each in changes] == ["restored", "deleted", "archived", "renamed tiny → renamed"]
    assert [each.previous for each in changes] == [*(each.hash for each in changes[1:]), ""]
    assert verify_lifecycle("tiny-1", changes)
    assert verify_lifecycle("tiny-1", changes[:2])  # the older ones are no longer stored
    assert not verify_lifecycle("tiny-2", changes)
    assert not verify_lifecycle("tiny-1", [changes[0], *changes[2:]])
    assert not verify_lifecycle("tiny-1", [msgspec.structs.replace(changes[0], actor="nobody"), *changes[1:]])
    old = msgspec.structs.replace(changes[3], hash="", previous="")  # of a version that had no hashes
    first = msgspec.structs.replace(changes[2], previous="", hash=changes[2].hash_after("", "tiny-1"))
    assert verify_lifecycle("tiny-1", [first, old])
    for stripped in ({"hash": ""}, {"hash": "", "previous": ""}):  # an entry that a hash was taken from is no old one
        for at in (1, 2, 3):
            forged = list(changes)
            forged[at:] = [msgspec.structs.replace(each, actor="nobody", **stripped) for each in changes[at:]]
            assert not verify_lifecycle("tiny-1", forged)
            assert not verify_lifecycle("tiny-1", [*changes[:at], *forged[at : at + 1]])


async def test_a_run_that_a_server_with_a_clock_ahead_heard_is_archived_and_deleted_all_the_same(
    agent: Any, clock: Any
) -> None:
    clock.now += 1.5  # of the server that takes the end
    await agent.client.post(f"{agent.run}/finish", content=b'{"state": "finished"}')
    clock.now -= 1.5
    assert (await update(agent, archived=True)).json()["archived"] == clock.now + 1.5
    assert await listed(agent) == []
    assert (await delete(agent, grace=60)).status_code == 204
    assert (await agent.get())["deletes_at"] == clock.now + 61.5
    assert await listed(agent, visibility="deleted") == ["tiny-1"]


async def test_what_a_clock_far_behind_would_undo_at_once_is_refused(agent: Any, clock: Any) -> None:
    await agent.client.post(f"{agent.run}/finish", content=b'{"state": "finished"}')
    clock.now -= 3600
    for answer in (await update(agent, archived=True), await delete(agent, grace=60)):
        assert answer.status_code == 409
        assert "was heard from 3600 s from now, by this server's clock" in answer.json()["detail"]
    assert (await update(agent, name="small")).json()["name"] == "small"
