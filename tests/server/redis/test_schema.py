"""A server does not work on data that only a later one understands, and says which one that is."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import redis
from redis.asyncio import Redis
from tests.support.server import FakeAgent, Serve, recorded_commands

from steadynorm_contract import __version__
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import StartError
from steadynorm_server.redis import schema
from steadynorm_server.redis.client import RedisClient
from steadynorm_server.redis_errors import NewerSchemaError
from steadynorm_server.retention import sweeper
from steadynorm_server.runtime import store_report

NEWER = "2 0.9.0"
SAID = f"schema 2, which steadynorm 0.9.0 wrote; this is steadynorm {__version__}, which reads up to schema 1"
pytestmark = pytest.mark.usefixtures("without_sweeper")


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """Address of an empty Valkey: one kind of store is enough."""
    return empty_valkey


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Any]:
    """A client of ours beside the server's."""
    async with Redis.from_url(store_url, protocol=2) as client:
        yield client


async def test_the_first_server_and_each_of_a_later_schema_leave_theirs(store: Any) -> None:
    await schema.claim(store)
    assert await store.get(schema.KEY) == f"1 {__version__}".encode()
    for stored, left in (("1 0.0.9", "1 0.0.9"), ("0 0.0.1", f"1 {__version__}")):
        await store.set(schema.KEY, stored)
        await schema.claim(store)
        assert await store.get(schema.KEY) == left.encode()


def test_after_a_rollback_to_a_server_that_would_misread_it_the_start_ends_with_a_sentence_that_names_both(
    store_url: str,
) -> None:
    with redis.Redis.from_url(store_url, protocol=2) as client:
        client.set(schema.KEY, NEWER)
        with pytest.raises(StartError, match=re.escape(SAID)):
            store_report.report(ServerConfig(), store_url)
        assert client.dbsize() == 1


def test_it_is_claimed_at_the_start(store_url: str) -> None:
    store_report.report(ServerConfig(), store_url)
    with redis.Redis.from_url(store_url, protocol=2) as client:
        assert client.get(schema.KEY) == f"1 {__version__}".encode()


async def test_a_newer_schema_that_comes_later_is_503_everywhere_until_it_has_gone(
    api: httpx.AsyncClient, agent: FakeAgent, store: Any
) -> None:
    """As when Redis was away at the start, or a later server begins to write beside this one."""
    await agent.send([1])
    await store.set(schema.KEY, NEWER)
    before = await store.hgetall("steadynorm:{tiny-1}:run")
    ready = await api.get("http://test/readyz")  # tells, and so does each request from now on
    batch = await agent.post(agent.batch(2, [2]))
    read = await api.get("/runs/tiny-1")
    for answer in (ready, batch, read):
        assert (answer.status_code, SAID in answer.json()["detail"]) == (503, True)
    assert await store.hgetall("steadynorm:{tiny-1}:run") == before
    await store.set(schema.KEY, "1 0.0.9")
    await agent.send([2])
    assert (await api.get("http://test/readyz")).status_code == 200


async def test_the_sweeper_asks_too_since_nobody_may_ask_readyz(
    api: httpx.AsyncClient, agent: FakeAgent, store: Any
) -> None:
    await store.set(schema.KEY, NEWER)
    state = api.app.state  # type: ignore[attr-defined] # set by client_of
    with pytest.raises(NewerSchemaError, match=re.escape(SAID)):
        await sweeper.sweep_repeatedly(state.repository, state.limits, lambda _: None)
    assert (await api.get("/runs/tiny-1")).status_code == 503


async def test_while_redis_takes_no_writes_a_server_without_a_schema_reads(
    serve: Serve, agent: FakeAgent, store: Any
) -> None:
    await store.delete(schema.KEY)
    await store.config_set("min-replicas-to-write", 1)
    try:
        another = await serve()
        assert (await another.get("/runs/tiny-1")).status_code == 200
        assert (await another.get("http://test/readyz")).status_code == 503
    finally:
        await store.config_set("min-replicas-to-write", 0)
    assert (await another.get("http://test/readyz")).status_code == 200
    assert await store.get(schema.KEY) == f"1 {__version__}".encode()


async def test_whether_all_is_ready_is_asked_in_one_round_trip(store_url: str) -> None:
    timed = Mock(side_effect=contextlib.nullcontext)
    client = RedisClient(store_url, timed)
    await client.check()
    timed.reset_mock()
    async with recorded_commands(store_url) as commands:
        await client.check()
    await client.close()
    assert timed.call_count == 1
    assert [each.name for each in commands if not each.in_script] == ["get", "setrange", "evalsha", "publish"]
