"""Lists of many runs: read from rows that are kept current, with the answers that reading all runs would give."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import httpx
import pytest
import redis
from tests.support.server import FakeAgent, all_runs, recorded_commands, sweep

from steadynorm_contract.fleet import FleetSort
from steadynorm_contract.lifecycle import Visibility
from steadynorm_contract.runs import Health, RunState, RunSummary
from steadynorm_server.redis.keys import INDEX, LIVE, TOUCHED, RunKeys
from steadynorm_server.retention import sweeper
from steadynorm_server.runs.fleet import Fleet
from steadynorm_server.runs.queries import RunQueries
from steadynorm_server.runs.repository import QUIET_S, RunRepository

pytestmark = pytest.mark.usefixtures("without_sweeper")


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough."""
    return empty_valkey


@pytest.fixture
async def copies(api: httpx.AsyncClient, agent: FakeAgent, store_url: str) -> Callable[[int], Awaitable[None]]:
    """copies(n): n ended runs like the agent's, in the store as another server would have left them."""
    await agent.send([1])

    async def make(number: int) -> None:
        with redis.Redis.from_url(store_url, protocol=2) as client, client.pipeline(transaction=False) as pipe:
            stored = client.hgetall(RunKeys("tiny-1").run)
            for at in range(number):
                pipe.hset(
                    RunKeys(f"copy-{at}").run, mapping={**stored, "state": "finished", "started": repr(float(at))}
                )
                pipe.zadd(INDEX, {f"copy-{at}": at})
            pipe.execute()

    return make


async def test_a_list_of_2000_runs_after_one_runs_batch_reads_that_run_and_the_page(
    api: httpx.AsyncClient, agent: FakeAgent, copies: Any, store_url: str
) -> None:
    await copies(2000)
    assert (await api.get("/fleet", params={"limit": 1})).json()["total"] == 2001
    app: Any = api.app  # type: ignore[attr-defined]
    app.state.fleet = Fleet(app.state.repository, fresh_s=0)
    await api.get("/fleet", params={"limit": 10, "sort": "-step"})  # with its sparklines
    await agent.send([2])
    for path, page in (("/runs", 10), ("/fleet", 10)):
        async with recorded_commands(store_url) as commands:
            answer = (await api.get(path, params={"limit": page, "sort": "-step"})).json()
        assert [(run["run_id"], run["step"]) for run in answer["runs"][:1]] == [("tiny-1", 2)]
        sent = Counter(each.name for each in commands if not each.in_script)
        assert (sent["hmget"], sent["hgetall"], sent["hget"]) == (1, page, page)
    async with recorded_commands(store_url) as commands:
        await api.get("http://test/metrics")
    assert Counter(each.name for each in commands)["hgetall"] == 1
    async with recorded_commands(store_url) as commands:
        await sweep(api)
    assert Counter(each.name for each in commands)["hmget"] <= 501  # the live run, and as many as a pass compares


def _place(run: RunSummary, field: str) -> tuple[Any, str]:
    return (getattr(run, field), run.run_id)


def _known(value: Any) -> bool:
    return value is not None and value == value


def _expected(runs: list[RunSummary], now: float, sort: str) -> list[str]:
    """The order of the overview, worked out run by run as its documentation says."""

    def rank(run: RunSummary) -> tuple[int, float]:
        day, healths = now - run.last_seen <= 86_400, list(Health)
        if run.state is RunState.FAILED and day:
            return 1, -run.last_seen
        if not run.state.is_live:
            return (8 if run.state is RunState.FAILED else 9), -run.started
        if run.state is RunState.STALLED and not day:
            return 7, -run.started
        return (0 if run.health is Health.NONFINITE else healths.index(run.health) + 1), -run.started

    newest = sorted(runs, key=lambda run: _place(run, "started"), reverse=True)
    if sort == "severity":
        return [run.run_id for run in sorted(newest, key=rank)]
    field = sort.removeprefix("-")
    known = [run for run in newest if _known(getattr(run, field))]
    known.sort(key=lambda run: (str(run.name).lower() if field == "name" else getattr(run, field), run.run_id))
    ordered = known[::-1] if sort.startswith("-") else known
    return [run.run_id for run in ordered] + [run.run_id for run in newest if run not in known]


async def test_lists_choose_order_and_count_as_a_look_at_each_run_would(
    api: httpx.AsyncClient, copies: Any, store_url: str, clock: Any
) -> None:
    await copies(150)
    seeded, now = random.Random(7), clock.now
    with redis.Redis.from_url(store_url, protocol=2) as client:
        progress = client.hget(RunKeys("tiny-1").run, "progress")
        assert isinstance(progress, bytes)
        for at in range(150):
            last_seen = now - seeded.choice([0, 20, 40, 3600, 90_000])
            latest = seeded.choice([b'"loss":1.5', b'"loss":null', b'"loss":3.0'])
            put_away = seeded.choice(["{}", "{}", '{"title":"Renamed"}', f'{{"archived_at":{now}}}',
                                      f'{{"deleted_at":{now},"removes_at":{now + 60}}}'])  # fmt: skip
            spike = seeded.choice(["null", "null", "1"])
            client.hset(
                RunKeys(f"copy-{at}").run,
                mapping={
                    "name": seeded.choice(["vit", "Vit", "gpt-2", "gpt-10"]),
                    "state": seeded.choice(["running", "running", "finished", "failed", "stopped"]),
                    "started": repr(float(at // 3)), "last_seen": repr(last_seen),
                    "poll_expires_at": repr(seeded.choice([0.0, now])),
                    "info": f'{{"parameters":2,"tags":{{"team":"{seeded.choice("abc")}"}}}}', "lifecycle": put_away,
                    "progress": progress.replace(b'"loss":2.0', latest).replace(
                        b'"spike_step":null', b'"spike_step":' + spike.encode()),
                },
            )  # fmt: skip
    repository: RunRepository = api.app.state.repository  # type: ignore[attr-defined]
    await repository.rebuild_index()
    runs = await RunQueries(repository).summaries(await all_runs(repository))
    assert {run.health for run in runs} >= {Health.SPIKING, Health.STALLED, Health.DISCONNECTED, Health.CALM}

    def having(*visible: Visibility, **wanted: Any) -> list[RunSummary]:
        return [
            run for run in runs
            if run.visibility in (visible or (Visibility.LISTED,))
            and all(getattr(run, field) in values for field, values in wanted.items())
        ]  # fmt: skip

    async def ids(path: str, **query: Any) -> list[str]:
        return [run["run_id"] for run in (await api.get(path, params={"limit": 1000, **query})).json()["runs"]]

    for sort in FleetSort:
        assert await ids("/fleet", sort=sort.value) == _expected(having(), now, sort.value), sort
    everything = (await api.get("/fleet", params={"search": "a", "limit": 1})).json()
    assert everything["states"] == Counter(run.state.value for run in having())
    assert everything["healths"] == Counter(run.health.value for run in having() if run.state.is_live)
    tags = Counter(f"team={run.tags['team']}" for run in _sorted(having(), "started")[::-1] if run.tags)
    assert list(everything["tags"].items()) == tags.most_common()
    for hidden in (Visibility.ARCHIVED, Visibility.DELETED):
        wanted = [run for run in having(hidden) if run.tags.get("team") == "a"]
        assert (await api.get("/fleet", params={"search": "team=a"})).json()[hidden.value] == len(wanted)
    for field in ("started", "name", "last_seen", "step"):
        whole = [run.run_id for run in _sorted(having(state=(RunState.RUNNING, RunState.STALLED)), field)]
        states = {"state": ["running", "stalled"]}
        assert await ids("/runs", sort=field, **states) == whole
        for order, wanted_ids in ((field, whole), (f"-{field}", whole[::-1])):
            pages: list[str] = []
            cursor: dict[str, str] = {}
            while True:
                page = (await api.get("/runs", params={"sort": order, "limit": 40, **states, **cursor})).json()
                pages += [run["run_id"] for run in page["runs"]]
                if page["next"] is None:
                    break
                cursor = {"cursor": page["next"]}
            assert pages == wanted_ids
    for health in Health:
        assert Counter(await ids("/runs", health=health.value)) == _ids(having(health=(health,)))
    assert Counter(await ids("/runs", name="[Vg]*")) == _ids(run for run in having() if fnmatchcase(run.name, "[Vg]*"))
    archived = having(Visibility.ARCHIVED, Visibility.DELETED)
    assert Counter(await ids("/runs", visibility=["archived", "deleted"])) == _ids(archived)


def _sorted(runs: list[RunSummary], field: str) -> list[RunSummary]:
    return sorted(runs, key=lambda run: _place(run, field))


def _ids(runs: Iterable[RunSummary]) -> Counter[str]:
    return Counter(run.run_id for run in runs)


async def test_what_one_server_does_another_lists(serve: Any, make_agent: Any, store_url: str, clock: Any) -> None:
    one, other = await serve(), await serve()

    async def shown(**query: Any) -> list[tuple[str, str]]:
        answer = (await other.get("/runs", params={"sort": "name", **query})).json()
        return [(run["name"], run["state"]) for run in answer["runs"]]

    assert await shown() == []
    agents = [make_agent(one, name=name, run_id=f"{name}-1") for name in ("a", "b")]
    for agent in agents:
        await agent.register()
    assert await shown() == [("a", "running"), ("b", "running")]
    await one.post("/runs/b-1/finish", json={"state": "finished"})
    assert await shown(state="finished") == [("b", "finished")]
    await one.patch("/runs/b-1", json={"name": "z"})
    assert await shown() == [("a", "running"), ("z", "finished")]
    await one.patch("/runs/b-1", json={"archived": True})
    assert await shown() == [("a", "running")]
    clock.now += 60
    assert await shown(health="disconnected") == [("a", "stalled")]
    await agents[0].send([1])
    assert await shown(state="running") == [("a", "running")]
    assert (await one.delete("/runs/b-1")).status_code == 204
    assert await shown(visibility=["listed", "archived"]) == [("a", "running")]


async def test_a_store_put_back_to_an_older_state_is_listed_as_it_is_then(
    api: httpx.AsyncClient, agent: FakeAgent, make_agent: Any, store_url: str
) -> None:
    await agent.send([1])
    for name in ("kept", "old"):
        await make_agent(api, name=name, run_id=f"{name}-1").register()
    await api.post("/runs/old-1/finish", json={"state": "stopped"})

    async def states(**query: str) -> dict[str, str]:
        return {run["run_id"]: run["state"] for run in (await api.get("/runs", params=query)).json()["runs"]}

    with redis.Redis.from_url(store_url, protocol=2) as client:
        copy = {key: client.dump(key) for key in client.keys("*")}
        await api.post("/runs/tiny-1/finish", json={"state": "finished"})
        await make_agent(api, name="lost", run_id="lost-1").register()
        await api.patch("/runs/old-1", json={"name": "renamed"})
        lost = {"tiny-1": "finished", "kept-1": "running", "lost-1": "running", "old-1": "stopped"}
        assert (await states(), await states(name="ren*")) == (lost, {"old-1": "stopped"})
        client.flushall()
        for key, value in copy.items():
            client.restore(key, 0, value)
        await make_agent(api, name="new", run_id="new-1").register()  # later than all that the copy knows
        await api.post("/runs/kept-1/finish", json={"state": "failed"})
    listed = {"tiny-1": "running", "kept-1": "failed", "new-1": "running", "old-1": "stopped"}
    assert (await states(), await states(name="ren*")) == (listed, {})


async def test_what_a_server_that_died_did_not_record_is_found_by_the_sweep(
    api: httpx.AsyncClient, agent: FakeAgent, store_url: str
) -> None:
    await agent.send([1])
    await sweep(api)
    with redis.Redis.from_url(store_url, protocol=2) as client:
        client.hset(RunKeys("tiny-1").run, "state", "finished")
        await sweep(api)
        assert client.zrange(LIVE, 0, -1) == []
        client.hset(RunKeys("tiny-1").run, mapping={"state": "running", "lifecycle": '{"title":"renamed"}'})
        await sweep(api)
        assert client.zrange(LIVE, 0, -1) == [b"tiny-1"]
    assert [run["name"] for run in (await api.get("/runs", params={"name": "ren*"})).json()["runs"]] == ["renamed"]


async def test_a_run_that_was_never_closed_is_left_alone_after_days_until_it_is_heard_from(
    api: httpx.AsyncClient, agent: FakeAgent, store_url: str, clock: Any
) -> None:
    await agent.send([1])
    clock.now += QUIET_S + 60
    await sweep(api)
    with redis.Redis.from_url(store_url, protocol=2) as client:
        assert client.zrange(LIVE, 0, -1) == []
        assert [run["state"] for run in (await api.get("/runs")).json()["runs"]] == ["stalled"]
        await agent.send([2])
        assert client.zrange(LIVE, 0, -1) == [b"tiny-1"]
    assert [run["state"] for run in (await api.get("/runs")).json()["runs"]] == ["running"]


async def test_a_stream_that_was_trimmed_past_what_a_server_knows_makes_it_read_all_runs(
    api: httpx.AsyncClient, agent: FakeAgent, store_url: str
) -> None:
    await agent.send([1])
    assert len((await api.get("/runs")).json()["runs"]) == 1
    with redis.Redis.from_url(store_url, protocol=2) as client:
        client.hset(RunKeys("tiny-1").run, "lifecycle", '{"title":"renamed"}')
        client.xtrim(TOUCHED, maxlen=0)
    assert [run["name"] for run in (await api.get("/runs", params={"name": "ren*"})).json()["runs"]] == ["renamed"]


async def test_a_live_run_that_the_index_lost_is_listed_again_once_its_agent_is_heard_from(
    api: httpx.AsyncClient, agent: FakeAgent, make_agent: Any, store_url: str
) -> None:
    polling = make_agent(api, name="polling", run_id="polling-1", instance="2")
    await polling.register()
    await agent.send([1])
    await sweep(api)
    with redis.Redis.from_url(store_url, protocol=2) as client:
        client.delete(INDEX, LIVE)
        await sweep(api)
        assert client.zcard(INDEX) == 0
        await agent.send([2])
        await api.get("/runs/polling-1/settings", params={"after_revision": 0, "wait": 0.01})
        await sweep(api)
        assert client.zcard(INDEX) == client.zcard(LIVE) == 2
    assert {run["run_id"] for run in (await api.get("/runs")).json()["runs"]} == {"tiny-1", "polling-1"}


async def test_a_run_that_only_polls_after_days_of_silence_is_shown_as_it_is(
    api: httpx.AsyncClient, agent: FakeAgent, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "CHECKED", 0)  # among very many runs it is not this one's turn
    await agent.send([1])
    clock.now += QUIET_S + 60
    await sweep(api)

    async def health() -> list[str]:
        found = [(await api.get("/runs", params={"health": each})).json()["runs"] for each in Health]
        return [each for each, runs in zip(Health, found, strict=True) if runs]

    assert await health() == ["disconnected"]
    await api.get(f"{agent.run}/settings", params={"after_revision": 0, "wait": 0.01})
    await sweep(api)
    assert await health() == ["stalled"]


async def test_a_store_that_comes_back_with_another_state_is_searched_for_runs(
    api: httpx.AsyncClient, agent: FakeAgent, store_url: str
) -> None:
    await agent.send([1])
    await sweep(api)
    with redis.Redis.from_url(store_url, protocol=2) as client:
        client.delete(INDEX, LIVE, TOUCHED)
        await sweep(api)
        assert client.zrange(INDEX, 0, -1) == client.zrange(LIVE, 0, -1) == [b"tiny-1"]
