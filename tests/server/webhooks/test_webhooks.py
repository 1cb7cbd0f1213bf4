"""Events reach a real receiver: signed, merged, again until it takes them, and once, whichever process dies."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import msgspec
import pytest
from tests.support.webhooks import until

from steadynorm_contract.events import EventKind
from steadynorm_server.retention.policy import Limits
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.telemetry.service import TelemetryService


async def test_an_event_is_told_signed_and_with_the_way_to_its_run(
    send: Any, webhook: Any, receiver: Any, agent: Any
) -> None:
    await send(webhook(), dashboard_url="https://dash.example.org/")
    await agent.send([1, 2], spikes=[0, 1], spike_ratio_max=[1.0, 40.0])
    post = await receiver.next()
    assert post.headers["content-type"] == "application/json"
    assert post.genuine
    message = post.message
    assert message.id == post.id
    (event,) = message.events
    assert (event.run_id, event.run, event.kind, event.step, event.value) == ("tiny-1", "tiny", "spike", 2, 40.0)
    assert event.url == "https://dash.example.org/?run=tiny-1"
    assert event.id == (await agent.events())[0]["id"]
    assert "embed.weight" in message.text
    assert (message.counts, message.omitted) == ({"spike": 1}, 0)


async def test_what_is_refused_is_sent_again_unchanged_until_it_is_taken(
    send: Any, webhook: Any, receiver: Any, agent: Any
) -> None:
    receiver.responses = [500, 503, 404]
    sending = await send(webhook())
    await agent.send([1], nonfinite=1)
    posts = [await receiver.next() for _ in range(4)]
    assert {(post.id, post.body) for post in posts} == {(posts[0].id, posts[0].body)}
    assert all(post.genuine for post in posts)
    await sending.counts("delivered", 1)
    assert (sending.count("retried"), sending.count("dead")) == (3, 0)
    while await sending.waiting_s():  # what was delivered is noted in a moment
        pass
    assert receiver.posts.empty()


async def test_retry_after_is_heeded(send: Any, webhook: Any, receiver: Any, agent: Any) -> None:
    receiver.responses, receiver.head = [429], "Retry-After: 1\r\n"
    await send(webhook())
    await agent.send([1], nonfinite=1)
    first, second = await receiver.next(), await receiver.next()
    assert second.at - first.at >= 1


async def test_a_receiver_that_hangs_is_left_and_holds_no_other_up(
    send: Any, webhook: Any, receiver: Any, elsewhere: Any, agent: Any
) -> None:
    receiver.responses = [0, 0]
    sending = await send(webhook(timeout_s=0.5), webhook(name="other", url=elsewhere.url))
    await agent.send([1], nonfinite=1)
    hung, quick = await receiver.next(), await elsewhere.next()
    assert quick.message.events == hung.message.events
    assert sending.count("retried") == 0  # the other has it while this one hangs
    assert await sending.waiting_s() > 0
    assert [(await receiver.next()).id for _ in range(2)] == [hung.id] * 2
    await sending.counts("delivered", 1)
    assert sending.count("retried") == 2


async def test_a_burst_is_one_message_and_the_next_one_waits_its_time(
    send: Any, webhook: Any, receiver: Any, agent: Any
) -> None:
    await send(webhook(interval_s=2.0))
    for burst in range(0, 300, 100):  # every second step a spike of its own: 20 events a batch
        steps = range(burst, burst + 100)
        await agent.send(steps, spikes=[step % 2 for step in steps], spike_ratio_max=[50.0] * 100)
    first = await receiver.next()
    await agent.send([1000], spikes=1, spike_ratio_max=99.0)
    second = await receiver.next()
    assert second.at - first.at > 1.8
    assert receiver.posts.empty()
    assert first.message.counts["spike"] + second.message.counts["spike"] == 61
    assert len(first.message.events) == 3
    assert first.message.omitted == first.message.counts["spike"] - 3


async def test_who_is_told_of_what_is_by_name_and_kind(
    send: Any, webhook: Any, receiver: Any, agent: Any, api: Any, make_agent: Any
) -> None:
    await send(webhook(runs=("prod-*",), kinds=frozenset({EventKind.NONFINITE})))
    prod = make_agent(api, run_id="prod-1", name="prod-llm")
    await prod.register()
    await agent.send([1], nonfinite=1)
    await prod.send([1], spikes=1, spike_ratio_max=40.0)
    await prod.send([2], nonfinite=1)
    (event,) = (await receiver.next()).message.events
    assert (event.run, event.kind, event.step) == ("prod-llm", "nonfinite", 2)
    assert receiver.posts.empty()


async def test_what_was_before_there_were_webhooks_is_not_told(
    send: Any, webhook: Any, receiver: Any, agent: Any
) -> None:
    await agent.send([1], nonfinite=1)
    await send(webhook())
    await agent.send([5], nonfinite=1)
    assert [event.step for event in (await receiver.next()).message.events] == [5]


async def test_after_its_last_attempt_a_message_is_given_up_and_the_next_one_goes_out(
    send: Any, webhook: Any, receiver: Any, agent: Any, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.responses = [500, 500]
    sending = await send(webhook(), max_attempts=2)
    await agent.send([1], nonfinite=1)
    await sending.counts("dead", 1)
    await agent.send([5], nonfinite=1)
    assert [[event.step for event in (await receiver.next()).message.events] for _ in range(3)] == [[1], [1], [5]]
    assert any("is given up: answered 500" in line for line in caplog.messages)


async def test_a_receiver_that_is_gone_is_asked_once(send: Any, webhook: Any, receiver: Any, agent: Any) -> None:
    receiver.responses = [410]
    sending = await send(webhook())
    await agent.send([1], nonfinite=1)
    await sending.counts("dead", 1)
    assert sending.count("retried") == 0


async def test_a_redirect_is_not_followed(send: Any, webhook: Any, receiver: Any, elsewhere: Any, agent: Any) -> None:
    receiver.responses, receiver.head = [307], f"Location: {elsewhere.url}\r\n"
    await send(webhook())
    await agent.send([1], nonfinite=1)
    assert (await receiver.next()).id == (await receiver.next()).id
    assert elsewhere.posts.empty()


async def test_two_processes_share_the_work_and_one_takes_over_what_the_other_leaves(
    send: Any, webhook: Any, receiver: Any, agent: Any
) -> None:
    both = [await send(webhook(), retry_s=0.5), await send(webhook(), retry_s=0.5)]
    for step in range(10, 60, 10):
        await agent.send([step], nonfinite=1)
        assert [event.step for event in (await receiver.next()).message.events] == [step]
    await until(lambda: sum(each.count("delivered") for each in both) == 5)

    receiver.responses = [500]  # the next message is on its way when its process ends
    await agent.send([70], nonfinite=1)
    lost = await receiver.next()
    await until(lambda: any(each.count("retried") for each in both))
    sender, other = sorted(both, key=lambda each: -each.count("retried"))
    before = other.count("delivered")
    await sender.stop()
    found = await receiver.next()
    assert (found.id, found.body) == (lost.id, lost.body)
    await other.counts("delivered", int(before) + 1)
    assert receiver.posts.empty()


async def test_slack_gets_text_in_which_no_name_can_wake_a_channel(
    send: Any, webhook: Any, receiver: Any, api: Any, make_agent: Any
) -> None:
    await send(webhook(format="slack", secret_file=None), dashboard_url="https://dash.example.org")
    evil = make_agent(api, run_id="evil", name="<!channel> & <https://evil.example|here>")
    await evil.register()
    await evil.send([3], nonfinite=1)
    post = await receiver.next()
    assert "webhook-signature" not in post.headers
    body = msgspec.json.decode(post.body)
    assert list(body) == ["text"]
    name = "&lt;!\u2060channel&gt; &amp; &lt;https:\u2060//evil.example|here&gt;"
    assert body["text"].startswith(f"<https://dash.example.org/?run=evil|{name}> `nonfinite` at step 3: ")


async def test_new_events_cost_ingest_no_command(
    repository: RunRepository, store_url: str, anyone: Any, agent: Any
) -> None:
    commands = []

    @contextlib.contextmanager
    def count() -> Any:
        commands.append(1)
        yield

    async def ingested(*, listens: bool, sequence: int) -> int:
        async with RunRepository(store_url, clock=repository.clock, timed=count).opened() as counted:
            if listens:
                counted.dirty_runs.enable()
            commands.clear()
            await TelemetryService(counted, Limits()).ingest(
                "tiny-1", agent.batch(sequence, [10 * sequence], nonfinite=1), anyone
            )
            number = len(commands)
            assert counted.dirty_runs.drain() == (["tiny-1"] if listens else [])
            return number

    assert await ingested(listens=False, sequence=1) == await ingested(listens=True, sequence=2) > 0


@pytest.mark.parametrize("ahead_s", [2 * 86_400.0, -2 * 86_400.0])
async def test_a_servers_clock_that_is_wrong_by_days_holds_no_event_back(
    agent: Any, receiver: Any, webhook: Any, send: Any, clock: Any, ahead_s: float
) -> None:
    sending = await send(webhook())
    clock.now += ahead_s
    sending.dispatcher._clock = lambda: time.time() + ahead_s
    await agent.send([1], nonfinite=1, nonfinite_parameter=0)
    kinds = [event.kind for event in (await receiver.next()).message.events]
    assert kinds[-1] == "nonfinite"  # a jump ahead looks like a silence, too
