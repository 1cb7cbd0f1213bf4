"""Three masters of a real Redis Cluster do what one Redis does; one that is lost stops its own runs and no other."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis
from redis.crc import key_slot

from steadynorm_server.keys import INDEX, RunKeys
from steadynorm_server.room import trim
from steadynorm_server.store import Store

SLOTS = 16384


@dataclass
class Cluster:
    """Three masters on loopback."""

    folder: Path
    ports: list[int] = field(default_factory=list)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its address, by all three."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def node(self, port: int) -> redis.Redis:
        """A client of one master."""
        return redis.Redis(port=port, protocol=2)

    def holder(self, key: str) -> int:
        """The port of the master that holds a key."""
        slot = key_slot(key.encode())
        return self.ports[slot * 3 // SLOTS]

    def sizes(self) -> list[int]:
        """How many keys each master holds."""
        with contextlib.ExitStack() as stack:
            return [int(stack.enter_context(self.node(port)).dbsize()) for port in self.ports]

    def kill(self, port: int) -> None:
        """End one master without a word."""
        process = self.processes.pop(port)
        process.kill()
        process.wait()


@contextlib.contextmanager
def cluster_of_three(folder: Path) -> Iterator[Cluster]:
    binary = shutil.which("redis-server")
    assert binary, "these tests need redis-server: apt-get install redis-server"
    cluster = Cluster(folder)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            port, bus = _two_free_ports()
            home = folder / str(port)
            home.mkdir()
            options = {
                "port": port, "cluster-port": bus, "bind": "127.0.0.1", "dir": home, "save": "",
                "cluster-enabled": "yes", "cluster-node-timeout": 1000, "logfile": "log",
                "cluster-require-full-coverage": "no",
            }  # fmt: skip
            arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
            cluster.processes[port] = subprocess.Popen([binary, *arguments])
            stack.callback(_end, cluster.processes[port])
            cluster.ports.append(port)
        nodes = [stack.enter_context(cluster.node(port)) for port in cluster.ports]
        for at, node in enumerate(nodes):
            _until(lambda node=node: node.ping())
            first, last = -(-SLOTS * at // 3), -(-SLOTS * (at + 1) // 3) - 1
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for port in cluster.ports[1:]:
            bus = int(_config(cluster.node(port), "cluster-port"))
            nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        for node in nodes:
            _until(lambda node=node: _whole(node))
        yield cluster


def _two_free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        for probe in (one, two):
            probe.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def _config(node: redis.Redis, name: str) -> str:
    with node:
        return str(node.config_get(name)[name])


def _whole(node: redis.Redis) -> bool:
    info: bytes = node.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call] # redis-py's own
    return b"cluster_state:ok" in info and f"cluster_slots_ok:{SLOTS}".encode() in info


def _until(look: Any, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(redis.ConnectionError):
            if look():
                return
        assert time.monotonic() < deadline, "the cluster did not come up"
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that all tests of this file but the last share."""
    with cluster_of_three(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def store_url(cluster: Cluster) -> str:
    """Instead of the one Redis of the other files: serve, api, agent and store go over the emptied cluster."""
    for port in cluster.ports:
        with cluster.node(port) as node:
            node.execute_command("FLUSHALL", "SYNC")
    return cluster.url


@pytest.fixture
async def agents(api: Any, make_agent: Any, cluster: Cluster) -> list[Any]:
    """Nine registered agents, with runs on each of the masters."""
    made = [make_agent(api, run_id=f"tiny-{at}", name=f"tiny-{at}") for at in range(9)]
    for each in made:
        await each.register()
    assert {cluster.holder(RunKeys(each.registration.run_id).run) for each in made} == set(cluster.ports)
    return made


async def test_runs_on_all_masters_are_registered_fed_listed_and_shown(agents: list[Any], api: Any) -> None:
    row = [[1, 1, 1, 1, 4], [1, 1, 1, 1, 7]]
    for at, each in enumerate(agents):
        answers = [await each.send(range(1, 11), loss=float(at), rows=each.rows([10], [row])) for _ in range(2)]
        assert answers[-1]["acknowledged"] == 2
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
        answers = [await each.post(sent) for _ in range(3)]
        assert [answer.json()["acknowledged"] for answer in answers] == [1, 1, 1]
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
        assert [event["kind"] for event in await agent.events()] == ["acted", "acted"]


async def _waits(client: Any, run_id: str) -> None:
    """Until a long-poll of the run waits in the client's process."""
    watchers = client.app.state.store.changes._watchers
    while run_id not in watchers:  # noqa: ASYNC110 # nothing tells of a wait that begins
        await asyncio.sleep(0.005)


async def test_each_run_is_exported_and_trimmed_where_it_lives(agents: list[Any], store: Store) -> None:
    for agent in agents:
        await agent.send(range(1, 600))
        before = await agent.client.get(f"{agent.run}/export")
        assert await trim(store, await store.find(agent.registration.run_id), 10_000) > 0
        after = await agent.client.get(f"{agent.run}/export")
        assert [sum(pq.read_table(io.BytesIO(each.content))["count"].to_pylist()) for each in (before, after)] == [
            599
        ] * 2


async def test_a_deleted_run_leaves_no_key(agents: list[Any], api: Any, cluster: Cluster) -> None:
    for each in agents:
        await each.send(range(1, 11))
        assert (await api.delete(each.run)).status_code == 204
        assert (await api.get(each.run)).status_code == 404
    assert (await api.get("/runs")).json()["runs"] == []
    assert cluster.sizes() == [0, 0, 0]


async def test_the_index_is_rebuilt_from_all_masters(agents: list[Any], api: Any, cluster: Cluster) -> None:
    with cluster.node(cluster.holder(INDEX)) as node:
        node.delete(INDEX)
    assert (await api.get("/runs")).json()["runs"] == []
    assert await api.app.state.store.rebuild_index() == len(agents)
    assert len((await api.get("/runs")).json()["runs"]) == len(agents)


async def test_metrics_hold_the_runs_of_all_masters(agents: list[Any], api: Any) -> None:
    await agents[0].client.post(f"{agents[0].run}/finish", json={"state": "finished"})
    text = (await api.get("http://test/metrics")).text
    steps = [line for line in text.splitlines() if line.startswith("steadynorm_run_step{")]
    assert [f'run_id="tiny-{at}"' in "".join(steps) for at in range(9)] == [False] + [True] * 8


async def test_scripts_come_back_after_a_node_forgot_them(agents: list[Any], cluster: Cluster) -> None:
    for port in cluster.ports:
        with cluster.node(port) as node:
            node.script_flush()
    for each in agents:
        assert (await each.send([1]))["acknowledged"] == 1


async def test_a_lost_master_stops_its_own_runs_and_no_other(
    tmp_path: Path, serve: Any, make_agent: Any, cluster: Cluster
) -> None:
    with cluster_of_three(tmp_path) as mortal:
        api = await serve(url=mortal.url)
        agents = [make_agent(api, run_id=f"tiny-{at}", name=f"tiny-{at}") for at in range(9)]
        for each in agents:
            await each.register()
        holders = {each: mortal.holder(RunKeys(each.registration.run_id).run) for each in agents}
        victim = next(port for port in mortal.ports if port != mortal.holder(INDEX))
        mortal.kill(victim)

        async def ask(each: Any) -> tuple[int, float]:
            began = time.monotonic()
            answer = await each.post(each.batch(1, [1]))
            return answer.status_code, time.monotonic() - began

        answers = dict(zip(agents, await asyncio.gather(*map(ask, agents)), strict=True))
        assert {each: status for each, (status, _) in answers.items()} == {
            each: 503 if holders[each] == victim else 200 for each in agents
        }
        assert max(seconds for _, seconds in answers.values()) < 5
        assert (await api.get("http://test/readyz")).status_code == 200
        lost = next(each for each in agents if holders[each] == victim)
        answer = await api.get(lost.run)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["title"] == "Store unavailable"


async def test_an_address_without_the_cluster_scheme_is_told_which_one_it_needs(serve: Any, cluster: Cluster) -> None:
    plain = await serve(url=f"redis://127.0.0.1:{cluster.ports[0]}")
    answers = [await plain.get(f"/runs/tiny-{at}") for at in range(9)]
    moved = [answer.json() for answer in answers if answer.status_code == 503]
    assert moved
    assert all("redis+cluster://" in problem["detail"] for problem in moved)
