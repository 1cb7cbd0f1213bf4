"""Who waits for settings costs a socket: nothing is read until there is word, and lost word is noticed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from steadynorm_server.redis.change_feed import ChangeNotifier
from steadynorm_server.redis.client import RedisClient
from steadynorm_server.redis.keys import CHANGES

WAITING = 100
QUIET_S, ANSWER_S = 0.2, 1.0


class Way:
    """Passes bytes between clients and a store. What is `cut` looks alive and says nothing any more."""

    def __init__(self, repository: Path) -> None:
        self._store = repository
        self._subscribed: set[asyncio.StreamWriter] = set()
        self._cut: set[asyncio.StreamWriter] = set()
        self._ways: set[asyncio.Task[None]] = set()
        self.pings = 0

    async def meet(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """A client connects."""
        back, repository = await asyncio.open_unix_connection(self._store)
        self._ways |= {asyncio.create_task(self._pass(reader, repository, client)),
                       asyncio.create_task(self._pass(back, client, client))}  # fmt: skip

    def cut_subscriptions(self) -> None:
        """Those that are there now hear no more, and nobody tells them."""
        assert self._subscribed - self._cut
        self._cut |= self._subscribed

    async def close(self) -> None:
        """End all."""
        for way in self._ways:
            way.cancel()
        await asyncio.gather(*self._ways, return_exceptions=True)

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, client: Any) -> None:
        with contextlib.closing(target):
            while data := await source.read(65536):
                if b"SUBSCRIBE" in data:
                    self._subscribed.add(client)
                self.pings += data.count(b"PING")
                if client not in self._cut:
                    target.write(data)


@pytest.fixture
async def way(valkey: str, tmp_path: Path) -> AsyncIterator[tuple[Way, RedisClient]]:
    """A way to the store that can be cut, and a connection over it."""
    made = Way(Path(urlsplit(valkey).path))
    socket = tmp_path / "way.sock"
    async with await asyncio.start_unix_server(made.meet, socket):
        connection = RedisClient(f"unix://{socket}")
        yield made, connection
        await connection.close()
        await made.close()


async def test_a_subscription_that_hangs_is_noticed_and_all_who_wait_are_woken(
    way: tuple[Way, RedisClient], valkey: str, caplog: pytest.LogCaptureFixture
) -> None:
    changes = ChangeNotifier(way[1], quiet_s=QUIET_S, answer_s=ANSWER_S)
    with (
        redis.Redis.from_url(valkey, protocol=2) as client,
        changes.subscribe("one") as one,
        changes.subscribe("two") as two,
    ):
        async with changes.running(), asyncio.timeout(60):
            await one.wait()  # that it listens
            for event in (one, two):
                event.clear()
            client.publish(CHANGES, "one")
            await one.wait()
            assert not two.is_set()
            way[0].cut_subscriptions()
            one.clear()
            client.publish(CHANGES, "one")  # which nobody hears
            await asyncio.gather(one.wait(), two.wait())
            assert "changes: Redis does not answer (TimeoutError)" in caplog.text
            one.clear()
            client.publish(CHANGES, "one")  # the new subscription does
            await one.wait()


async def test_a_subscription_that_is_quiet_and_well_is_left_alone(
    way: tuple[Way, RedisClient], caplog: pytest.LogCaptureFixture
) -> None:
    changes = ChangeNotifier(way[1], quiet_s=0.02, answer_s=30)
    with changes.subscribe("one") as one:
        async with changes.running(), asyncio.timeout(60):
            await one.wait()
            one.clear()
            while way[0].pings < 20:  # each after the answer to the one before  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            assert not one.is_set()
    assert caplog.text == ""


@pytest.mark.usefixtures("without_sweeper")
async def test_those_who_wait_read_nothing_and_one_change_wakes_its_own_run_alone(
    api: Any, make_agent: Any, store_url: str
) -> None:
    agents = [make_agent(api, run_id=f"many-{number}", name="many") for number in range(WAITING)]
    for agent in agents:
        await agent.register()
    changes = api.app.state.repository.changes
    with redis.Redis.from_url(store_url, protocol=2) as client:
        registered = _reads(client)
        waits = [asyncio.create_task(agent.get("/settings", after_revision=0, wait=60)) for agent in agents]
        async with asyncio.timeout(60):
            while changes.waiting < WAITING or _reads(client) - registered < WAITING:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        before = _reads(client)
        assert (await agents[7].change(0, {"gamma2": 0.9})).status_code == 200
        assert (await asyncio.wait_for(waits[7], 60))["revision"] == 1
        assert _reads(client) - before <= 5  # of the change itself and of the one who waited
    assert [wait.done() for wait in waits].count(True) == 1
    api.app.state.stopping.set()
    assert {answer["revision"] for answer in await asyncio.gather(*waits)} == {0, 1}


def _reads(client: Any) -> int:
    """How often the store was ever asked for a hash, also by scripts."""
    found = client.info("commandstats")
    return sum(
        int(found[name]["calls"]) for name in ("cmdstat_hgetall", "cmdstat_hmget", "cmdstat_hget") if name in found
    )
