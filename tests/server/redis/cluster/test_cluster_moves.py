"""While a slot moves from one master to another its runs are read where they are, and no write is lost or halved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from redis.crc import key_slot

from steadynorm_server.redis.keys import RunKeys

pytestmark = pytest.mark.usefixtures("impatient_with_stores")


class Move:
    """A run's slot on its way to another master, as `redis-cli --cluster reshard` does it, step by step."""

    def __init__(self, cluster: Any, run_id: str, stack: ExitStack) -> None:
        self.keys = RunKeys(run_id)
        self.slot = key_slot(self.keys.run.encode())
        source = cluster.holder(self.keys.run)
        target = next(port for port in cluster.ports if port != source)
        self._names = cluster.name(source), cluster.name(target)
        self.target = target
        self._nodes = [stack.enter_context(cluster.node(port)) for port in (target, source)] + [
            stack.enter_context(cluster.node(port)) for port in cluster.ports if port not in (source, target)
        ]

    def begin(self) -> None:
        """Both sides know of it; the keys are where they were."""
        target, source, _ = self._nodes
        target.execute_command("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self._names[0])
        source.execute_command("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self._names[1])

    def carry(self, *keys: str) -> None:
        """Carry these keys over; without any all."""
        _, source, _ = self._nodes
        found = keys or source.execute_command("CLUSTER", "GETKEYSINSLOT", self.slot, 100)
        assert source.execute_command("MIGRATE", "127.0.0.1", self.target, "", 0, 5000, "KEYS", *found) == b"OK"

    def end(self) -> None:
        """Carry over what is left, and let all know who has the slot now."""
        if self._nodes[1].execute_command("CLUSTER", "GETKEYSINSLOT", self.slot, 1):
            self.carry()
        for node in self._nodes:
            node.execute_command("CLUSTER", "SETSLOT", self.slot, "NODE", self._names[1])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


@pytest.fixture
async def fed(api: Any, make_agent: Any, request: pytest.FixtureRequest) -> Any:
    """An agent whose run is of this test alone, since its slot does not come back; it has ten steps."""
    name = request.node.name.replace("_", "-")[:60]
    agent = make_agent(api, run_id=name, name=name)
    await agent.register()
    await agent.send(range(1, 11))
    return agent


async def test_a_run_on_its_way_is_read_on_either_side(fed: Any, api: Any, cluster: Any, stack: ExitStack) -> None:
    move = Move(cluster, fed.registration.run_id, stack)
    move.begin()
    steps: list[Callable[[], None]] = [lambda: None, lambda: move.carry(move.keys.events), move.carry, move.end]
    for step in steps:
        step()
        assert (await fed.get())["counters"]["steps"] == 10
        assert len((await fed.get("/events"))["events"]) == 1
        assert [run["step"] for run in (await api.get("/runs")).json()["runs"]] == [10]
        assert "steadynorm_run_step{" in (await api.get("http://test/metrics")).text
    await fed.send(range(11, 21))
    assert (await fed.get())["counters"]["steps"] == 20


async def test_a_write_to_a_run_on_its_way_waits_for_it_to_arrive(fed: Any, cluster: Any, stack: ExitStack) -> None:
    move = Move(cluster, fed.registration.run_id, stack)
    move.begin()
    move.carry(move.keys.events)
    sent = asyncio.create_task(fed.post(fed.batch(2, range(11, 21))))
    await _met(fed)
    move.end()
    assert (await sent).json()["acknowledged"] == 2
    assert (await fed.get())["counters"]["steps"] == 20


async def _met(fed: Any) -> None:
    """Until the batch met a slot that moves: reads behind it are answered."""
    for _ in range(3):
        await fed.get()


@pytest.mark.serial
async def test_a_write_to_a_run_that_does_not_arrive_is_a_503_in_time_and_is_taken_later(
    fed: Any, cluster: Any, stack: ExitStack
) -> None:
    move = Move(cluster, fed.registration.run_id, stack)
    move.begin()
    move.carry(move.keys.events)
    sent = fed.batch(2, range(11, 21))
    began = time.monotonic()
    responses = [await fed.post(sent), await fed.change(0, {"gamma2": 0.5})]
    assert time.monotonic() - began < 4
    for answer in responses:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert ((await fed.get())["counters"]["steps"], (await fed.get("/settings"))["revision"]) == (10, 0)
    move.end()
    assert (await fed.post(sent)).json()["acknowledged"] == 2
    assert (await fed.change(0, {"gamma2": 0.5})).json()["revision"] == 1
    assert (await fed.get())["counters"]["steps"] == 20


async def test_a_process_that_knows_the_old_place_finds_the_new_one(
    fed: Any, serve: Any, cluster: Any, stack: ExitStack
) -> None:
    other = await serve()
    assert (await other.get(fed.run)).status_code == 200  # it knows the slots now
    move = Move(cluster, fed.registration.run_id, stack)
    move.begin()
    move.end()
    assert [run["step"] for run in (await other.get("/runs")).json()["runs"]] == [10]
    router = other.app.state.repository.redis._client
    assert router._owners[move.slot] == ("127.0.0.1", move.target)  # and will not ask at the old one again
    fed.client = other
    await fed.send(range(11, 21))
    assert (await fed.get("/series", names="loss"))["series"]["loss"]["count"] == [1] * 20
