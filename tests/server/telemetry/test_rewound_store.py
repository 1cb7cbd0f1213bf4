"""A store that was put back to an older state gives no revision a second meaning: agents that are ahead re-seed it."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from tests.support.server import as_if_restarted

from steadynorm_contract.settings import Settings


class Snapshot:
    """All that a store holds, to be put back later."""

    def __init__(self, url: str) -> None:
        self._url = url
        with redis.Redis.from_url(url, protocol=2) as client:
            self._kept = {key: client.dump(key) for key in client.keys("*")}

    def restore(self) -> None:
        with redis.Redis.from_url(self._url, protocol=2) as client:
            client.execute_command("FLUSHALL", "SYNC")
            for key, value in self._kept.items():
                client.restore(key, 0, value)
        as_if_restarted(self._url)


@pytest.fixture
async def ahead(agent: Any, store_url: str) -> Any:
    """An agent at revision 2 with gamma2 = 0.8, whose store is back at revision 1 with gamma2 = 0.9."""
    await agent.change(0, {"gamma2": 0.9})
    await agent.send([1], applied=[agent.applied(1, 1, gamma2=0.9)])
    snapshot = Snapshot(store_url)
    await agent.change(1, {"gamma2": 0.8})
    await agent.send([2], applied=[agent.applied(2, 2, gamma2=0.8)])
    snapshot.restore()
    assert (await agent.get("/settings"))["revision"] == 1
    agent.registration.applied_revision = 2
    agent.registration.settings = Settings(gamma2=0.8)
    return agent


async def test_the_next_batch_shows_the_gap_and_registering_brings_the_newest_settings_back(ahead: Any) -> None:
    refused = await ahead.post(ahead.batch(3, [3]))
    assert (refused.status_code, refused.json()["title"]) == (409, "Rewound")
    assert (await ahead.get())["counters"]["steps"] == 1  # nothing of it was stored
    registered = await ahead.register()
    assert (registered["incarnation"], registered["acknowledged"]) == (1, 1)
    assert registered["desired"]["revision"] == 2
    assert (await ahead.get("/settings"))["settings"]["gamma2"] == 0.8
    await ahead.send([3])
    assert (await ahead.get())["counters"]["steps"] == 2
    assert (await ahead.change(2, {"gamma1": 0.5})).json()["revision"] == 3


async def test_a_change_that_got_a_number_again_reaches_the_agent_under_a_new_one(ahead: Any) -> None:
    assert (await ahead.change(1, {"gamma2": 0.7}, reason="after the rewind")).json()["revision"] == 2
    registered = await ahead.register()
    assert registered["desired"]["revision"] == 3
    assert registered["desired"]["settings"]["gamma2"] == 0.7
    run = await ahead.get()
    assert (run["desired"]["revision"], run["desired"]["state"]) == (3, "pending")
    again = await ahead.register()  # until it applied that, registering changes nothing more
    assert again["desired"] == registered["desired"]


async def test_a_change_below_what_the_agent_has_gives_way_to_what_runs(ahead: Any) -> None:
    ahead.registration.applied_revision = 5
    await ahead.change(1, {"gamma2": 0.7})
    assert (await ahead.register())["desired"]["revision"] == 5
    assert (await ahead.get("/settings"))["settings"]["gamma2"] == 0.8
    assert (await ahead.get("/audit"))["entries"][0]["state"] == "superseded"


@pytest.mark.parametrize("times", [10])
async def test_commands_that_come_again_and_in_another_order_do_no_more(agent: Any, times: int) -> None:
    await agent.change(0, {"gamma2": 0.9})
    batches = [agent.batch(at, [at]) for at in (1, 2, 3)]
    for batch in batches:
        assert (await agent.post(batch)).status_code == 200
    run = await agent.get()
    for at in range(times):
        for batch in batches[:: 1 if at % 2 else -1]:
            assert (await agent.post(batch)).json()["acknowledged"] == 3
        assert (await agent.change(0, {"gamma2": 0.9})).status_code == 412
        assert (await agent.register())["incarnation"] == 1
    after = await agent.get()
    unmoved = ("step", "desired", "applied", "counters", "incarnation")
    assert {name: after[name] for name in unmoved} == {name: run[name] for name in unmoved}
    assert len((await agent.get("/audit"))["entries"]) == 1
    assert sum((await agent.get("/series", names="loss"))["series"]["loss"]["count"]) == 3
