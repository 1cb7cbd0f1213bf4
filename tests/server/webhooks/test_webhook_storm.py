"""A storm of events is one message that shows the first ones and counts the rest; no other run's event waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from tests.support.webhooks import Dispatching, hanging

from steadynorm_contract.codec import encode_json
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.webhooks import WebhookEvent, WebhookMessage
from steadynorm_server.redis.keys import INDEX, RunKeys, WebhookKeys
from steadynorm_server.webhooks import payload, queue
from steadynorm_server.webhooks.config import Webhook


async def happen(sending: Dispatching, run_id: str, kind: EventKind, number: int) -> None:
    """So many events of a run are in its list."""
    event = encode_json(Event(id="", kind=kind, step=1, time=0.0, message="so it was."))
    async with sending.repository.redis._client.pipeline(transaction=False) as pipe:
        pipe.hset(RunKeys(run_id).run, "name", run_id)
        for _ in range(number):
            pipe.xadd(RunKeys(run_id).events, {"event": event})
        pipe.zadd(INDEX, {run_id: 0.0})
        await pipe.execute()


async def read_to_the_end(sending: Dispatching, run_id: str) -> None:
    """Until all events of the run are in the queue."""
    redis = sending.repository.redis
    ((end, _),) = await redis.newest_entries(RunKeys(run_id).events, 1)
    async with asyncio.timeout(15):
        while await redis.fields([(WebhookKeys.cursors, run_id)]) != [end.encode()]:  # noqa: ASYNC110 # tells nobody
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("cap", [10_000, 4])
async def test_what_waits_beside_a_storm_is_in_the_next_message(
    send: Any, webhook: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch, cap: int
) -> None:
    monkeypatch.setattr(queue, "MAX_QUEUE", cap)
    sending = await send(webhook())
    with hanging(sending, "webhook_claim") as (resume, _):
        await happen(sending, "noisy", EventKind.SPIKE, 1500)
        await read_to_the_end(sending, "noisy")
        await happen(sending, "quiet", EventKind.NONFINITE, 1)
        await read_to_the_end(sending, "quiet")
        await happen(sending, "late", EventKind.THROTTLED, 2)
        await read_to_the_end(sending, "late")
        resume.set()
        message = (await receiver.next()).message
    shown = [event.run for event in message.events]
    assert shown == ["noisy"] * 3 + ["quiet"] + ["late"] * (2 if cap > 4 else 0)
    assert message.counts == {"spike": 1500, "nonfinite": 1, "throttled": 2}  # a full queue counts all the same
    assert message.omitted == 1503 - len(shown)
    assert message.text == "noisy and 2 other runs: 1500 spike, 2 throttled, 1 nonfinite"
    left_out = sending.registry.get_sample_value("steadynorm_webhook_events_dropped_total")
    assert left_out == (0 if cap > 4 else 2)
    await sending.counts("delivered", 1)
    assert receiver.posts.empty()


async def test_what_comes_while_a_message_is_on_its_way_is_in_the_next_one(
    send: Any, webhook: Any, receiver: Any
) -> None:
    sending = await send(webhook())
    with hanging(sending, "webhook_outcome") as (resume, _):
        await happen(sending, "noisy", EventKind.SPIKE, 5)
        first = (await receiver.next()).message
        await happen(sending, "noisy", EventKind.SPIKE, 4)
        await read_to_the_end(sending, "noisy")
        resume.set()
        messages = [first, (await receiver.next()).message]
    assert [(each.counts, len(each.events)) for each in messages] == [({"spike": 5}, 3), ({"spike": 4}, 3)]


@pytest.mark.parametrize("form", ["json", "slack"])
def test_the_first_of_each_run_is_shown_before_the_second_of_any(form: Any) -> None:
    events = [
        WebhookEvent(run_id=run, run=run, id=f"1-{at}", kind=EventKind.SPIKE, step=at, time=0.0, message="m")
        for at, run in enumerate([f"noisy-{run}" for run in range(19) for _ in range(3)] + ["quiet"])
    ]
    counts = {("spike", event.run): 100 for event in events}
    body = payload.build_payload(Webhook(name="a", url="https://a.example", format=form), "id", events, counts)
    if form == "slack":
        text = msgspec.json.decode(body)["text"]
        assert all(f"*{run}* `spike`" in text for run in ("noisy-0", "noisy-18", "quiet"))
        assert text.endswith("… and 1980 more")
    else:
        message = msgspec.json.decode(body, type=WebhookMessage)
        assert message.events[-1].run == "quiet"
        assert [event.step for event in message.events] == sorted(event.step for event in message.events)
        assert (len(message.events), message.counts, message.omitted) == (50, {"spike": 2000}, 1950)
