"""Old runs go, with all their data; whoever is heard of stays."""

from __future__ import annotations

from typing import Any

import httpx
import redis

from steadynorm_server.retention import forget_old
from steadynorm_server.store import Store

DAY_S = 86_400


async def test_runs_that_were_silent_for_longer_are_removed_whole(
    store: Store, api: httpx.AsyncClient, make_agent: Any, clock: Any, store_url: str
) -> None:
    old, fresh = (make_agent(api, run_id=name) for name in ("old", "fresh"))
    await old.register()
    await old.send([1], rows=old.rows([1], [[[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]]))
    await old.change(0, {"gamma2": 0.9})
    clock.now += 8 * DAY_S
    await fresh.register()
    assert await forget_old(store, await store.all(), None) == []
    assert await forget_old(store, await store.all(), 9) == []
    assert await forget_old(store, await store.all(), 7) == ["old"]
    assert [run["run_id"] for run in (await api.get("/runs")).json()["runs"]] == ["fresh"]
    with redis.Redis.from_url(store_url, protocol=2) as client:
        assert client.keys("steadynorm:{old}:*") == []


async def test_a_run_that_is_heard_of_meanwhile_stays(store: Store, agent: Any, clock: Any) -> None:
    await agent.send([1])
    clock.now += 8 * DAY_S
    judged = await store.all()
    await agent.send([2])
    assert await forget_old(store, judged, 7) == []
    assert (await agent.get())["counters"]["steps"] == 2
