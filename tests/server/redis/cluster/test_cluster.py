"""Three masters of a real Redis Cluster do what one Redis does; one that is lost stops its own runs and no other."""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from tests.support.webhooks import is_genuine

from steadynorm_contract.webhooks import WebhookMessage
from steadynorm_server.redis import schema
from steadynorm_server.redis.keys import INDEX, RunKeys, WebhookKeys
from steadynorm_server.retention.trimming import trim
from steadynorm_server.runs.repository import RunRepository

pytestmark = pytest.mark.usefixtures("impatient_with_stores")

SECRET = b"a-secret-of-the-cluster"


async def test_runs_on_all_masters_are_registered_fed_listed_and_shown(agents: list[Any], api: Any) -> None:
    row = [[1, 1, 1, 1, 4], [1, 1, 1, 1, 7]]
    for at, each in enumerate(agents):
        responses = [await each.send(range(1, 11), loss=float(at), rows=each.rows([10], [row])) for _ in range(2)]
        assert responses[-1]["acknowledged"] == 2
        assert (await each.get())["loss"] == at
        found = (await each.get("/series", names="loss,raw_norm/embed.weight"))["series"]
        assert sum(found["loss"]["count"]) == 20
        assert found["raw_norm/embed.weight"]["max"] == [1.0]
        assert (await each.get("/parameters"))["step"] == 10
    runs = (await api.get("/runs")).json()["runs"]
    assert {run["run_id"]: run["step"] for run in runs} == {f"tiny-{at}": 10 for at in range(9)}


async def test_a_batch_that_comes_twice_is_stored_once(agents: list[Any]) -> None:
    for each in agents:
        sent = each.batch(1, range(1, 6))
        responses = [await each.post(sent) for _ in range(3)]
        assert [answer.json()["acknowledged"] for answer in responses] == [1, 1, 1]
        assert (await each.get())["counters"]["steps"] == 5


async def test_a_change_wakes_the_long_poll_at_another_process(agents: list[Any], serve: Any) -> None:
    other = await serve()
    for each in agents:
        waiting = asyncio.create_task(other.get(f"{each.run}/settings?after_revision=0&wait=30"))
        await _waits(other, each.registration.run_id)
        began = time.monotonic()
        assert (await each.change(0, {"gamma2": 0.99}, reason="why not")).status_code == 200
        assert (await waiting).json()["settings"]["gamma2"] == 0.99
        assert time.monotonic() - began < 5  # long before it would read again by itself
        assert (await each.change(0, {"gamma2": 0.5})).status_code == 412
        (entry,) = (await each.get("/audit"))["entries"]
        assert (entry["reason"], entry["after"]) == ("why not", {"gamma2": 0.99})


async def test_schedules_and_rules_act_on_every_master(agents: list[Any]) -> None:
    rule = {"id": "high", "when": {"scalar": "loss", "comparison": ">", "value": 9}, "settings": {"gamma1": 0.5}}
    for agent in agents:
        schedule = {"from_step": 1000, "settings": {"gamma2": 0.9}}
        assert (await agent.client.post(f"{agent.run}/schedules", json=schedule)).status_code == 201
        assert (await agent.client.put(f"{agent.run}/rules", json={"rules": [rule]})).status_code == 200
        assert (await agent.send([1000], loss=10))["desired"]["revision"] == 2
        assert [event["kind"] for event in await agent.events()] == ["automation", "automation"]


async def _waits(client: Any, run_id: str) -> None:
    """Until a long-poll of the run waits in the client's process."""
    watchers = client.app.state.repository.changes._subscribers
    while run_id not in watchers:  # noqa: ASYNC110 # nothing tells of a wait that begins
        await asyncio.sleep(0.005)


async def test_each_run_is_exported_and_trimmed_where_it_lives(agents: list[Any], repository: RunRepository) -> None:
    for agent in agents:
        await agent.send(range(1, 600))
        before = await agent.client.get(f"{agent.run}/export")
        assert await trim(repository, await repository.get(agent.registration.run_id), 10_000) > 0
        after = await agent.client.get(f"{agent.run}/export")
        assert [sum(pq.read_table(io.BytesIO(each.content))["count"].to_pylist()) for each in (before, after)] == [
            599
        ] * 2


@pytest.mark.usefixtures("without_sweeper")
async def test_a_deleted_run_leaves_no_key(agents: list[Any], api: Any, cluster: Any) -> None:
    for each in agents:
        await each.send(range(1, 11))
        assert (await api.delete(each.run)).status_code == 204
        assert (await api.get(each.run)).status_code == 404
    assert (await api.get("/runs")).json()["runs"] == []
    await api.app.state.repository.redis.remove(schema.KEY)  # of no run
    assert cluster.sizes() == [0, 0, 0]


@pytest.mark.usefixtures("without_sweeper")
async def test_the_index_is_rebuilt_from_all_masters(agents: list[Any], api: Any, cluster: Any) -> None:
    with cluster.node(cluster.holder(INDEX)) as node:
        node.delete(INDEX)
    assert (await api.get("/runs")).json()["runs"] == []
    assert await api.app.state.repository.rebuild_index() == len(agents)
    assert len((await api.get("/runs")).json()["runs"]) == len(agents)


async def test_metrics_hold_the_runs_of_all_masters(agents: list[Any], api: Any) -> None:
    await agents[0].client.post(f"{agents[0].run}/finish", json={"state": "finished"})
    text = (await api.get("http://test/metrics")).text
    steps = [line for line in text.splitlines() if line.startswith("steadynorm_run_step{")]
    assert [f'run_id="tiny-{at}"' in "".join(steps) for at in range(9)] == [False] + [True] * 8


async def test_scripts_come_back_after_a_node_forgot_them(agents: list[Any], cluster: Any) -> None:
    for port in cluster.ports:
        with cluster.node(port) as node:
            node.script_flush()
    for each in agents:
        assert (await each.send([1]))["acknowledged"] == 1


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[str, asyncio.Queue[WebhookMessage]]]:
    """An HTTP server on loopback that takes everything: its address, and what came with a good signature."""
    taken = asyncio.Queue[WebhookMessage]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:-2]
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                message = msgspec.json.decode(body, type=WebhookMessage)
                if is_genuine(headers, body, SECRET) and headers["webhook-id"] == message.id:
                    taken.put_nowait(message)
                writer.write(b"HTTP/1.1 204 Taken\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", taken
    server.close()


async def test_events_of_runs_on_every_master_are_delivered_once_whichever_process_took_them_in(
    serve: Any, make_agent: Any, cluster: Any, receiver: tuple[str, asyncio.Queue[WebhookMessage]], tmp_path: Path
) -> None:
    url, taken = receiver
    (tmp_path / "secret").write_bytes(SECRET)
    file = tmp_path / "webhooks.toml"
    file.write_text(
        f'[[webhook]]\nname = "on-call"\nurl = "{url}"\nsecret_file = "{tmp_path / "secret"}"\n'
        'kinds = ["nonfinite"]\ninterval_s = 1\n'
    )
    servers = [await serve(webhooks_file=file) for _ in range(2)]
    while await servers[0].app.state.repository.redis.get(WebhookKeys.since) is None:  # noqa: ASYNC110 # nothing tells of it
        await asyncio.sleep(0.01)
    agents = [make_agent(servers[at % 2], run_id=f"tiny-{at}", name=f"tiny-{at}") for at in range(9)]
    assert {cluster.holder(RunKeys(each.registration.run_id).run) for each in agents} == set(cluster.ports)
    for agent in agents:
        await agent.register()
        await agent.send([1], nonfinite=1)
    came = Counter[tuple[str, int]]()

    async def receive_all(wanted: int) -> None:
        async with asyncio.timeout(15):
            while len(came) < wanted:
                message = await taken.get()
                assert message.counts == {"nonfinite": len(message.events)}
                came.update((event.run_id, event.step) for event in message.events)

    await receive_all(9)
    for agent in agents:  # whatever was sent twice would come before these
        agent.client = servers[agents.index(agent) % 2 - 1]
        await agent.send(range(2, 200))
        await agent.send([200], nonfinite=1)
    await receive_all(18)
    assert came == {(f"tiny-{at}", step): 1 for at in range(9) for step in (1, 200)}


@pytest.mark.serial
@pytest.mark.parametrize("how", ["hangs", "is gone"])
async def test_a_lost_master_stops_its_own_runs_and_no_other(
    tmp_path: Path, serve: Any, make_agent: Any, start_cluster: Any, how: str
) -> None:
    with start_cluster(tmp_path) as mortal:
        api = await serve(url=mortal.url)
        agents = [make_agent(api, run_id=f"tiny-{at}", name=f"tiny-{at}") for at in range(9)]
        for each in agents:
            await each.register()
        holders = {each: mortal.holder(RunKeys(each.registration.run_id).run) for each in agents}
        victim = next(port for port in mortal.ports if port != mortal.holder(INDEX))
        if how == "hangs":
            mortal.processes[victim].send_signal(signal.SIGSTOP)
        else:
            mortal.kill(victim)

        async def ask(each: Any) -> tuple[int, float]:
            began = time.monotonic()
            answer = await each.post(each.batch(1, [1]))
            return answer.status_code, time.monotonic() - began

        responses = dict(zip(agents, await asyncio.gather(*map(ask, agents)), strict=True))
        assert {each: status for each, (status, _) in responses.items()} == {
            each: 503 if holders[each] == victim else 200 for each in agents
        }
        assert max(seconds for _, seconds in responses.values()) < 2
        assert (await api.get("http://test/readyz")).status_code == 200
        lost = next(each for each in agents if holders[each] == victim)
        answer = await api.get(lost.run)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["title"] == "Redis unavailable"


async def test_a_cluster_is_ready_while_one_of_its_masters_takes_writes(api: Any, cluster: Any) -> None:
    async def ready() -> int:
        answer = await api.get("http://test/readyz")
        return int(answer.status_code)

    nodes = [cluster.node(port) for port in cluster.ports]
    try:
        for node in nodes:
            assert await ready() == 200
            node.config_set("maxmemory", 1)
        assert await ready() == 503
    finally:
        for node in nodes:
            node.config_set("maxmemory", 0)
            node.close()
    assert await ready() == 200


async def test_an_address_without_the_cluster_scheme_is_told_which_one_it_needs(serve: Any, cluster: Any) -> None:
    plain = await serve(url=f"redis://127.0.0.1:{cluster.ports[0]}")
    responses = [await plain.get(f"/runs/tiny-{at}") for at in range(9)]
    moved = [answer.json() for answer in responses if answer.status_code == 503]
    assert moved
    assert all("redis+cluster://" in problem["detail"] for problem in moved)
