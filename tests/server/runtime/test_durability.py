"""What was acknowledged is there after a kill -9 of the store, and a store that hangs is a quick 503."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from steadynorm_server.runtime.embedded_redis import embedded_redis_server

pytestmark = pytest.mark.usefixtures("impatient_with_stores")


def process_of(url: str) -> int:
    with redis.Redis.from_url(url, protocol=2) as client:
        return int(client.info("server")["process_id"])


def kill(process: int) -> None:
    """kill -9, and wait until it is gone."""
    descriptor = os.pidfd_open(process)
    os.kill(process, signal.SIGKILL)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(20_000)
    os.close(descriptor)


async def test_what_was_acknowledged_outlives_a_killed_store(tmp_path: Path, serve: Any, make_agent: Any) -> None:
    with embedded_redis_server(tmp_path / "kept") as url:
        agent = make_agent(await serve(url=url))
        await agent.register()
        await agent.send([1, 2, 3])
        assert (await agent.change(0, {"gamma2": 0.9}, reason="kept")).status_code == 200
        kill(process_of(url))
    with embedded_redis_server(tmp_path / "kept") as url:
        agent.client = await serve(url=url)
        run = await agent.get()
        assert (run["desired"]["revision"], run["desired"]["settings"]["gamma2"]) == (1, 0.9)
        assert run["counters"]["steps"] == 3
        assert [entry["reason"] for entry in (await agent.get("/audit"))["entries"]] == ["kept"]


async def test_the_embedded_store_answers_when_it_is_on_the_disk(tmp_path: Path) -> None:
    with embedded_redis_server(tmp_path) as url, redis.Redis.from_url(url, protocol=2, decode_responses=True) as client:
        assert client.config_get("appendfsync") == {"appendfsync": "always"}


@pytest.mark.serial
async def test_a_store_that_hangs_is_a_503_within_2_s_and_comes_back(
    tmp_path: Path, serve: Any, make_agent: Any
) -> None:
    with embedded_redis_server(tmp_path) as url:
        agent = make_agent(await serve(url=url))
        await agent.register()
        process = process_of(url)
        os.kill(process, signal.SIGSTOP)
        try:
            for path in ("/runs", agent.run + "/series", "http://test/readyz"):
                began = time.monotonic()
                answer: httpx.Response = await agent.client.get(path)
                assert answer.status_code == 503, answer.text
                assert answer.headers["retry-after"]
                assert time.monotonic() - began < 2
        finally:
            os.kill(process, signal.SIGCONT)
        assert (await agent.client.get("/runs")).status_code == 200
        await agent.send([1])
