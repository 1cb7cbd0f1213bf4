"""A Redis user whose access list lacks something: 503 that names it, not ready, and what was done stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.support.redis_server import port_of, redis_server

DOCUMENTED = "+@read +@write +@connection +@pubsub +eval +evalsha +script|load +info ~steadynorm:* &steadynorm:*"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    with redis_server(tmp_path_factory.mktemp("acl") / "redis") as client:
        yield client


@pytest.fixture
def store_url(store: redis.Redis) -> str:
    """Of the user whose permissions the test sets."""
    store.flushall()
    permit(store, DOCUMENTED)
    return f"redis://steadynorm:secret@127.0.0.1:{port_of(store)}"


def permit(store: Any, rules: str) -> None:
    store.execute_command("ACL", "SETUSER", "steadynorm", "reset", "on", ">secret", *rules.split())
    store.execute_command("CLIENT", "KILL", "USER", "steadynorm")


async def test_the_documented_access_list_is_enough(serve: Any, make_agent: Any, root: Path) -> None:
    assert DOCUMENTED in (root / "docs" / "deploying.md").read_text("utf-8")
    client = await serve()
    agent = make_agent(client)
    await agent.register()
    await agent.send([1, 2])
    assert (await agent.change(0, {"gamma2": 0.9})).status_code == 200
    assert (await client.get("http://test/readyz")).status_code == 200
    assert (await client.get("http://test/metrics")).status_code == 200
    assert (await client.delete(agent.run)).status_code == 204


async def test_without_its_channel_what_is_done_stands_and_readiness_says_what_is_missing(
    serve: Any, make_agent: Any, store: redis.Redis
) -> None:
    client = await serve()
    agent = make_agent(client)
    await agent.register()
    permit(store, DOCUMENTED.replace("&steadynorm:*", "resetchannels"))
    assert (await agent.change(0, {"gamma2": 0.9})).status_code == 200
    assert (await agent.get())["desired"]["revision"] == 1
    ready = await client.get("http://test/readyz")
    assert ready.status_code == 503
    assert "channel" in ready.json()["detail"]
    assert "access list" in ready.json()["detail"]
    assert (await client.delete(agent.run)).status_code == 204


async def test_without_scripts_it_is_not_ready_and_names_the_command(serve: Any, store: redis.Redis) -> None:
    client = await serve()
    assert (await client.get("http://test/readyz")).status_code == 200
    permit(store, DOCUMENTED.replace("+eval +evalsha", ""))
    ready = await client.get("http://test/readyz")
    assert ready.status_code == 503
    assert "evalsha" in ready.json()["detail"]
    assert ready.json()["title"] == "Redis unavailable"
