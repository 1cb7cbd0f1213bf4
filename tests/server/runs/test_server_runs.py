"""Runs are registered, shown, taken over by a restart, ended and deleted."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest
import redis
from tests.support.server import all_runs, as_if_restarted, registration

from steadynorm_contract import __version__
from steadynorm_contract.runs import RunDetail, RunList
from steadynorm_contract.series import ParameterList
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import Parameter, Registered
from steadynorm_server.runs.repository import RunRepository


async def test_a_run_shows_what_its_agent_said(api: httpx.AsyncClient, make_agent: Any) -> None:
    agent = make_agent(
        api, framework="torch 2", host="node7", world_size=8, tags={"team": "a"}, allow=["gamma2"], step=5
    )
    registered = await agent.register()
    assert registered == {
        "run_id": "tiny-1",
        "incarnation": 1,
        "acknowledged": 0,
        "desired": {"revision": 0, "settings": msgspec.to_builtins(Settings())},
        "previous_acknowledged": None,
        "server_version": __version__,
        "defaults": msgspec.to_builtins(Settings()),
        "max_scalars": 256,
        "max_knobs": 64,
    }
    shown = msgspec.convert(await agent.get(), RunDetail)
    assert (shown.name, shown.state, shown.health, shown.step) == ("tiny", "running", "calm", 5)
    assert (shown.framework, shown.host, shown.world_size) == ("torch 2", "node7", 8)
    assert (shown.tags, shown.allow, shown.parameters) == ({"team": "a"}, ["gamma2"], 2)
    assert (shown.applied.revision, shown.applied.step, shown.desired.state) == (0, 5, "applied")


async def test_the_newest_scalars_and_the_pace_are_shown(agent: Any) -> None:
    await agent.send(range(1, 11), loss=[3.0] * 9 + [2.5], raw_norm=4.0, stabilized_norm=1.5)
    await agent.send(range(11, 21), loss=float("nan"), target_min=float("inf"))
    shown = await agent.get()
    assert shown["step"] == 20
    assert shown["loss"] == 2.5  # the newest that was logged
    assert shown["target_min"] is None
    assert (shown["raw_norm"], shown["stabilized_norm"]) == (1.0, 1.0)
    assert shown["steps_per_s"] == 1.0
    assert shown["counters"]["steps"] == 20


async def test_runs_are_listed_newest_first(api: httpx.AsyncClient, make_agent: Any, clock: Any) -> None:
    for name in ("first", "second", "third"):
        await make_agent(api, run_id=name).register()
        clock.now += 1
    listed = msgspec.convert((await api.get("/runs")).json(), RunList)
    assert [run.run_id for run in listed.runs] == ["third", "second", "first"]


async def test_a_run_without_an_id_gets_one_from_its_name(api: httpx.AsyncClient, make_agent: Any) -> None:
    agent = make_agent(api, name="GPT small/é 3", run_id=None)
    first = await agent.register()
    assert first["run_id"].startswith("gpt-small-3-")
    assert len(first["run_id"].rpartition("-")[2]) == 8
    # The answer was lost and the agent asks again: still one run.
    assert await agent.register() == first
    assert (await make_agent(api, name="GPT small/é 3", run_id=None, instance="two").register()) != first


async def test_registering_again_is_the_same_incarnation_for_the_same_agent_only(
    api: httpx.AsyncClient, agent: Any, make_agent: Any
) -> None:
    await agent.send([1, 2])
    again = await agent.register()
    assert (again["incarnation"], again["acknowledged"]) == (1, 1)
    restarted = make_agent(api, instance="another", step=2)
    assert (await restarted.register())["incarnation"] == 2
    assert restarted.sequence == 0
    kinds = [event["kind"] for event in (await agent.get("/events"))["events"]]
    assert kinds == ["started", "started"]


async def test_an_agent_learns_how_far_its_previous_instance_came(
    api: httpx.AsyncClient, agent: Any, make_agent: Any
) -> None:
    await agent.send([1, 2])
    await agent.send([3])
    instance = agent.registration.instance
    nobody = await make_agent(api, instance="nobody", previous_instance="never registered").register()
    assert nobody["previous_acknowledged"] is None
    second = make_agent(api, instance="second", previous_instance=instance)
    assert [(await second.register())["previous_acknowledged"] for _ in range(2)] == [2, 2]  # one answer was lost
    third = make_agent(api, instance="third", previous_instance=instance)  # both were, before the next checkpoint
    assert (await third.register())["previous_acknowledged"] == 2
    await third.send([3])
    fourth = await make_agent(api, instance="fourth", previous_instance="third").register()
    assert (fourth["acknowledged"], fourth["previous_acknowledged"]) == (0, 1)


async def test_an_agent_that_takes_its_run_back_learns_how_far_it_had_come(
    api: httpx.AsyncClient, agent: Any, make_agent: Any
) -> None:
    await agent.send([1, 2])
    other = make_agent(api, instance="another")
    await other.register()
    await other.send([1])
    agent.registration.previous_instance = agent.registration.instance
    back = await agent.register()
    assert (back["incarnation"], back["acknowledged"], back["previous_acknowledged"]) == (3, 0, 1)


async def test_a_restart_takes_back_stop_and_pause_and_says_so(
    api: httpx.AsyncClient, agent: Any, make_agent: Any
) -> None:
    await agent.change(0, {"stop": True, "paused": True, "gamma2": 0.9})
    same = await agent.register()  # the network failed for a moment: what the operator wants still holds
    assert (same["desired"]["revision"], same["desired"]["settings"]["paused"]) == (1, True)
    restarted = await make_agent(api, instance="another", step=2).register()
    wanted = restarted["desired"]
    assert (wanted["revision"], wanted["settings"]["gamma2"]) == (2, 0.9)
    assert (wanted["settings"]["stop"], wanted["settings"]["paused"]) == (False, False)
    newest = (await agent.get("/audit"))["entries"][0]
    assert (newest["actor"], newest["reason"]) == ("steadynorm", "a new process resumed the run")


async def test_a_restart_keeps_what_operators_want(api: httpx.AsyncClient, agent: Any, make_agent: Any) -> None:
    await agent.change(0, {"gamma2": 0.9})
    restarted = await make_agent(api, instance="another").register()
    assert restarted["desired"]["revision"] == 1
    assert restarted["desired"]["settings"]["gamma2"] == 0.9
    assert (await agent.get())["desired"]["state"] == "pending"


async def test_a_revision_that_only_the_agent_knows_is_adopted(
    api: httpx.AsyncClient, make_agent: Any, store_url: str
) -> None:
    agent = make_agent(api, applied_revision=7, settings=Settings(gamma1=0.5))
    registered = msgspec.convert(await agent.register(), Registered)
    assert (registered.desired.revision, registered.desired.settings.gamma1) == (7, 0.5)
    as_if_restarted(store_url)
    later = make_agent(api, instance="another", applied_revision=9, settings=Settings(gamma1=0.4))
    registered = msgspec.convert(await later.register(), Registered)
    assert (registered.desired.revision, registered.desired.settings.gamma1) == (9, 0.4)
    # The store was put back to an older state, while the agent goes on.
    as_if_restarted(store_url)
    await later.send([1], applied=[later.applied(12, 1, gamma1=0.3)])
    assert (await later.get())["desired"]["revision"] == 12
    assert (await later.get())["desired"]["settings"]["gamma1"] == 0.3


async def test_an_agent_changes_no_settings_by_claiming_a_revision_that_nobody_made(
    api: httpx.AsyncClient, agent: Any, make_agent: Any
) -> None:
    await agent.change(0, {"gamma2": 0.9})
    for instance in ("one", "another"):
        claimed = make_agent(api, instance=instance, applied_revision=7, settings=Settings(gamma2=0.1))
        desired = (await claimed.register())["desired"]
        assert (desired["revision"], desired["settings"]["gamma2"]) == (8, 0.9), "which is new to the agent too"
    await claimed.send([1], applied=[claimed.applied(12, 1, gamma2=0.1)])
    assert (await agent.get())["desired"]["settings"]["gamma2"] == 0.9
    assert (await agent.change(8, {"gamma2": 0.8})).json()["revision"] == 9


async def test_a_claimed_revision_leaves_numbers_for_changes(
    api: httpx.AsyncClient, agent: Any, make_agent: Any, store_url: str
) -> None:
    refused = await api.post("/runs", json=msgspec.to_builtins(registration(instance="b", applied_revision=2**53 - 1)))
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "applied_revision")
    as_if_restarted(store_url)
    await agent.send([1], applied=[agent.applied(2**53 - 1, 1, gamma2=0.1)])
    assert (await agent.get())["desired"]["revision"] == 0
    claimed = make_agent(api, instance="another", applied_revision=2**52, settings=Settings(gamma2=0.1))
    assert (await claimed.register())["desired"]["revision"] == 2**52
    for revision in (2**52, 2**52 + 1):
        assert (await claimed.change(revision, {"gamma2": revision % 2 / 2})).json()["revision"] == revision + 1
    knows = make_agent(api, instance="third", applied_revision=2**52 + 2, settings=Settings(gamma2=0.5))
    assert (await knows.register())["desired"]["revision"] == 2**52 + 2


async def test_an_old_agent_is_told_that_it_was_replaced(api: httpx.AsyncClient, agent: Any, make_agent: Any) -> None:
    await make_agent(api, instance="another").register()
    answer = await agent.post(agent.batch(1, [1]))
    assert answer.status_code == 409
    assert "incarnation 2, got 1: another agent took over the run" in answer.json()["detail"]
    answer = await api.post(f"{agent.run}/finish", json={"state": "failed", "incarnation": 1})
    assert answer.status_code == 409
    assert (await agent.get())["state"] == "running"


async def test_another_model_does_not_enter_a_known_run(
    api: httpx.AsyncClient, agent: Any, make_agent: Any, body_of: Any
) -> None:
    other = make_agent(api, parameters=[Parameter("x", (1,), "float32")])
    answer = await api.post("/runs", content=body_of(other.registration))
    assert answer.status_code == 422
    assert "another parameter table" in answer.json()["detail"]
    answer = await api.post("/runs", content=body_of(make_agent(api, name="other").registration))
    assert answer.status_code == 422
    assert "belongs to 'tiny'" in answer.json()["detail"]


async def test_a_run_ends_once_and_begins_again(api: httpx.AsyncClient, agent: Any) -> None:
    await agent.send([1, 2, 3])
    for _ in range(2):
        answer = await api.post(f"{agent.run}/finish", json={"state": "failed", "reason": "out of memory"})
        assert answer.status_code == 204
    shown = await agent.get()
    assert (shown["state"], shown["end_reason"]) == ("failed", "out of memory")
    (ended,) = await agent.events()
    assert (ended["kind"], ended["step"], ended["message"]) == ("ended", 3, "the run failed: out of memory")
    refused = await agent.change(0, {"gamma2": 0.9})
    assert refused.status_code == 409
    assert "has ended (failed)" in refused.json()["detail"]

    await agent.send([4])  # what was still on its way
    assert (await agent.get())["state"] == "failed"
    await agent.register()
    shown = await agent.get()
    assert (shown["state"], shown["end_reason"], shown["incarnation"]) == ("running", "", 1)


@pytest.mark.usefixtures("without_sweeper")
async def test_a_deleted_run_leaves_nothing(api: httpx.AsyncClient, agent: Any, store_url: str) -> None:
    await agent.send(range(600), rows=agent.rows([1], [[[1] * 5, [20] * 5]]), spikes=1, spike_ratio_max=20)
    await agent.change(0, {"gamma2": 0.9})
    assert (await api.delete(agent.run)).status_code == 204
    with redis.Redis.from_url(store_url, protocol=2) as client:
        assert set(client.keys("*")) <= {b"steadynorm:schema"}  # of no run
    assert (await api.get("/runs")).json()["runs"] == []
    assert (await api.delete(agent.run)).status_code == 404
    answer = await agent.post(agent.batch(2, [2]))
    assert answer.status_code == 404


@pytest.mark.usefixtures("without_sweeper")
async def test_the_index_of_runs_can_be_rebuilt(agent: Any, repository: RunRepository, store_url: str) -> None:
    with redis.Redis.from_url(store_url, protocol=2) as client:
        client.delete("steadynorm:runs")
        assert await all_runs(repository) == []
        assert await repository.rebuild_index() == 1
        assert [run.run_id for run in await all_runs(repository)] == ["tiny-1"]
        # A run whose keys are gone is not listed, and leaves the index with the next sweep.
        client.zadd("steadynorm:runs", {"ghost": 1})
        assert len(await all_runs(repository)) == 1
        assert client.zcard("steadynorm:runs") == 2
        await repository.remove_lost(["ghost", "tiny-1"])
        assert client.zrange("steadynorm:runs", 0, -1) == [b"tiny-1"]


async def test_another_server_on_the_same_store_answers_alike(agent: Any, serve: Any) -> None:
    await agent.send([1, 2])
    other = await serve()
    for path in ("", "/events", "/audit", "/parameters", "/series?names=loss"):
        assert (await other.get(agent.run + path)).json() == await agent.get(path)


async def test_the_parameter_table_holds_the_newest_row_and_the_peaks(agent: Any) -> None:
    before = msgspec.convert(await agent.get("/parameters"), ParameterList)
    assert (before.step, [each.raw_norm for each in before.parameters]) == (None, [None, None])
    await agent.send([1, 2], rows=agent.rows([1, 2], [[[1, 2, 4, 1, 3], [1, 1, 1, 1, 50]], [[9, 3, 6, 2, 1], [0] * 5]]))
    await agent.send([3], rows=agent.rows([3], [[[9, 3, 6, 2, 11], [float("nan")] * 5]]))
    table = msgspec.convert(await agent.get("/parameters"), ParameterList)
    assert table.step == 3
    embed, head = table.parameters
    assert (embed.name, embed.shape, embed.dtype, embed.numel) == ("embed.weight", [16, 4], "float32", 64)
    assert (embed.raw_norm, embed.norm_mean, embed.norm_rms, embed.scale, embed.spike_ratio) == (9, 3, 6, 2, 11)
    assert embed.target == pytest.approx(0.5)
    assert (embed.spike_ratio_max, embed.spikes) == (11, 1)
    assert (head.raw_norm, head.target, head.spike_ratio_max, head.spikes) == (None, None, 50, 1)
