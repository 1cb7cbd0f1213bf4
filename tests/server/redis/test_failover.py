"""A planned failover: the address leads to the new primary, and connections to the demoted one stay open."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.proxy import Proxy
from tests.support.redis_server import port_of, redis_server

if TYPE_CHECKING:
    from tests.support.waiting import Eventually

pytestmark = pytest.mark.usefixtures("impatient_with_stores")

WITHIN_S = 5.0


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """Not used: the servers here have stores of their own."""
    return empty_valkey


async def test_after_a_failover_writes_go_on_without_a_restart(
    serve: Any, make_agent: Any, tmp_path: Path, eventually: Eventually
) -> None:
    with redis_server(tmp_path / "one") as one, redis_server(tmp_path / "two") as two:
        two.replicaof("127.0.0.1", port_of(one))
        with Proxy(f"redis://127.0.0.1:{port_of(one)}") as switch:
            client = await serve(url=switch.server.replace("http:", "redis:"))
            agent = make_agent(client)
            await agent.register()
            await asyncio.gather(*(client.get("/runs") for _ in range(20)))  # so that there are idle connections
            eventually(lambda: two.exists("steadynorm:{tiny-1}:run"))

            two.replicaof("NO", "ONE")
            one.replicaof("127.0.0.1", port_of(two))
            switch.upstream = ("127.0.0.1", port_of(two))
            began = time.monotonic()
            for _ in range(50):
                if (ready := await client.get("http://test/readyz")).status_code == 200:
                    break
                await asyncio.sleep(0.1)
            assert ready.status_code == 200
            assert (await agent.change(0, {"gamma2": 0.9})).status_code == 200
            await agent.send([1, 2, 3])
            assert (await agent.get())["step"] == 3
            assert time.monotonic() - began < WITHIN_S
            assert two.exists("steadynorm:{tiny-1}:run")
