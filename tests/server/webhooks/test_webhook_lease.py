"""Of all processes one sends: it keeps the lease whatever else takes long, and sends nothing once it has lost it."""

from __future__ import annotations

import asyncio
from typing import Any

from steadynorm_server.redis.keys import WebhookKeys

LEASE_S = 1.0


async def test_a_long_collection_costs_no_lease(send: Any, webhook: Any, receiver: Any, agent: Any, hangs: Any) -> None:
    sender = await send(webhook(), lease_s=LEASE_S)
    owner = await sender.repository.redis.get(WebhookKeys.lease)
    other = await send(webhook(), lease_s=LEASE_S)
    with hangs(sender, "webhook_take") as (go_on, calls):
        await agent.send([1], nonfinite=1)
        async with asyncio.timeout(15):
            while not calls["webhook_take"]:  # noqa: ASYNC110 # a counter tells nobody
                await asyncio.sleep(0.01)
        await asyncio.sleep(2.5 * LEASE_S)
        assert await sender.repository.redis.get(WebhookKeys.lease) == owner
        assert receiver.posts.empty()
        go_on.set()
        await receiver.next()
        await sender.counts("delivered", 1)
    assert other.count("delivered") == 0
    assert receiver.posts.empty()


async def test_who_lost_the_lease_sends_no_more_of_its_message(
    send: Any, webhook: Any, receiver: Any, agent: Any, hangs: Any
) -> None:
    receiver.responses = [500]
    pace = {"lease_s": LEASE_S, "again_s": 4 * LEASE_S}  # again in 2 to 4 leases: this one has run out
    loser = await send(webhook(), **pace)
    other = await send(webhook(), **pace)
    await agent.send([1], nonfinite=1)
    first = await receiver.next()
    await loser.counts("retried", 1)
    with hangs(loser, "webhook_lease"):
        assert (await receiver.next()).id == first.id
        await other.counts("delivered", 1)
        await agent.send([5], nonfinite=1)
        assert [event.step for event in (await receiver.next()).message.events] == [5]  # and the first one not again
        await other.counts("delivered", 2)
    assert loser.count("delivered") == 0
