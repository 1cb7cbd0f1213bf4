"""Events reach a real receiver: signed, merged, again until it takes them, and once, whichever process dies."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from prometheus_client import CollectorRegistry

from steadynorm_contract.views import EventKind
from steadynorm_contract.webhooks import WebhookMessage, verify
from steadynorm_server.mailer import Mailer, Pace
from steadynorm_server.store import Store
from steadynorm_server.webhook_file import Webhook

SECRET = b"a-secret-of-the-tests"
HURRY = Pace(look_s=0.02, sweep_s=0.04, lease_s=1.0, gather_s=0.04, again_s=0.05)


@dataclass
class Post:
    """What came in one request."""

    at: float
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> WebhookMessage:
        return msgspec.json.decode(self.body, type=WebhookMessage)

    @property
    def id(self) -> str:
        return self.headers["steadynorm-id"]


@dataclass
class Receiver:
    """An HTTP server on loopback. `answers`: what it says to the next requests, 0 for nothing at all; then 200."""

    answers: list[int] = field(default_factory=list)
    head: str = ""
    url: str = ""
    posts: asyncio.Queue[Post] = field(default_factory=asyncio.Queue)

    async def next(self) -> Post:
        """The next request."""
        return await asyncio.wait_for(self.posts.get(), 15)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:-2]
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                self.posts.put_nowait(Post(time.monotonic(), headers, body))
                if not (status := self.answers.pop(0) if self.answers else 200):
                    await reader.read()  # until the other side gives up
                    break
                writer.write(f"HTTP/1.1 {status} As told\r\nContent-Length: 0\r\n{self.head}\r\n".encode())
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    yield receiver
    server.close()


@pytest.fixture
def store_url(valkey: str) -> str:
    """Address of an empty store. One kind is enough here; the cluster's tests have the other."""
    with redis.Redis.from_url(valkey, protocol=2) as client:
        client.execute_command("FLUSHALL", "SYNC")
    return valkey


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that takes everything."""
    async with receiving() as started:
        yield started


@pytest.fixture
def webhook(receiver: Receiver, tmp_path: Path) -> Callable[..., Webhook]:
    """webhook(**what differs) -> a webhook that goes to the receiver."""
    (tmp_path / "secret").write_bytes(SECRET + b"\n")

    def make(**changes: Any) -> Webhook:
        given = {"name": "on-call", "url": receiver.url, "secret_file": tmp_path / "secret", "interval_s": 0.0}
        return Webhook(**{**given, **changes})

    return make


class Sending:
    """A mailer as one server process has it."""

    def __init__(self, url: str, webhooks: list[Webhook], pace: Pace, dashboard_url: str | None) -> None:
        self.registry = CollectorRegistry()
        self.store = Store(url)
        self.mailer = Mailer(self.store, webhooks, dashboard_url, self.registry, pace)
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> Sending:
        await self._stack.enter_async_context(self.store.opened())
        await self._stack.enter_async_context(self.mailer.running())
        return self

    async def stop(self) -> None:
        await self._stack.aclose()

    def count(self, outcome: str, webhook: str = "on-call") -> float:
        """Deliveries so far."""
        labels = {"webhook": webhook, "outcome": outcome}
        return self.registry.get_sample_value("steadynorm_webhook_deliveries_total", labels) or 0.0

    async def waiting_s(self) -> float:
        """Age of the oldest undelivered event, as a scrape finds it."""
        await self.mailer.note_waiting()
        name = "steadynorm_webhook_oldest_undelivered_seconds"
        return self.registry.get_sample_value(name, {"webhook": "on-call"}) or 0.0


Send = Callable[..., Any]


@pytest.fixture
async def send(store_url: str) -> AsyncIterator[Send]:
    """await send(webhook, ...) -> a started mailer, ended with the test; it has looked at the store once."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*webhooks: Webhook, pace: Pace = HURRY, dashboard_url: str | None = None) -> Sending:
            sending = await Sending(store_url, list(webhooks), pace, dashboard_url).start()
            stack.push_async_callback(sending.stop)
            await until(lambda: sending.store.redis.get("steadynorm:webhooks:{webhooks}:since"))
            return sending

        yield start


async def until(look: Callable[[], Any]) -> None:
    """Until look() gives something true."""
    async with asyncio.timeout(15):
        while not await look():  # noqa: ASYNC110 # the store tells of no change
            await asyncio.sleep(0.01)


async def gets(value: Callable[[], float], wanted: float) -> None:
    async def look() -> bool:
        return value() == wanted

    await until(look)


async def test_an_event_is_told_signed_and_with_the_way_to_its_run(
    send: Send, webhook: Any, receiver: Receiver, agent: Any
) -> None:
    await send(webhook(), dashboard_url="https://dash.example.org/")
    await agent.send([1, 2], spikes=[0, 1], spike_ratio_max=[1.0, 40.0])
    post = await receiver.next()
    assert post.headers["content-type"] == "application/json"
    assert verify(post.headers["steadynorm-signature"], post.body, SECRET)
    assert not verify(post.headers["steadynorm-signature"], post.body + b" ", SECRET)
    message = post.message
    assert message.id == post.id
    (event,) = message.events
    assert (event.run_id, event.run, event.kind, event.step, event.value) == ("tiny-1", "tiny", "spike", 2, 40.0)
    assert event.url == "https://dash.example.org/?run=tiny-1"
    assert event.id == (await agent.events())[0]["id"]
    assert "embed.weight" in message.text
    assert (message.counts, message.omitted) == ({"spike": 1}, 0)


async def test_what_is_refused_is_sent_again_unchanged_until_it_is_taken(
    send: Send, webhook: Any, receiver: Receiver, agent: Any
) -> None:
    receiver.answers = [500, 503, 404]
    sending = await send(webhook())
    await agent.send([1], nonfinite=1)
    posts = [await receiver.next() for _ in range(4)]
    assert {(post.id, post.body) for post in posts} == {(posts[0].id, posts[0].body)}
    assert all(verify(post.headers["steadynorm-signature"], post.body, SECRET) for post in posts)
    await gets(lambda: sending.count("delivered"), 1)
    assert (sending.count("retried"), sending.count("dead")) == (3, 0)
    await until(lambda: nothing_waits(sending))
    assert receiver.posts.empty()


async def nothing_waits(sending: Sending) -> bool:
    return await sending.waiting_s() == 0


async def test_retry_after_is_heeded(send: Send, webhook: Any, receiver: Receiver, agent: Any) -> None:
    receiver.answers, receiver.head = [429], "Retry-After: 1\r\n"
    await send(webhook())
    await agent.send([1], nonfinite=1)
    first, second = await receiver.next(), await receiver.next()
    assert second.at - first.at >= 1


async def test_a_receiver_that_hangs_is_left_and_holds_no_other_up(
    send: Send, webhook: Any, receiver: Receiver, agent: Any
) -> None:
    receiver.answers = [0, 0]
    async with receiving() as other:
        sending = await send(webhook(timeout_s=0.5), webhook(name="other", url=other.url))
        await agent.send([1], nonfinite=1)
        hung, quick = await receiver.next(), await other.next()
        assert quick.message.events == hung.message.events
        assert sending.count("retried") == 0  # the other has it while this one hangs
        assert await sending.waiting_s() > 0
        assert [(await receiver.next()).id for _ in range(2)] == [hung.id] * 2
        await gets(lambda: sending.count("delivered"), 1)
        assert sending.count("retried") == 2


async def test_a_burst_is_one_message_and_the_next_one_waits_its_time(
    send: Send, webhook: Any, receiver: Receiver, agent: Any
) -> None:
    await send(webhook(interval_s=1.0))
    for burst in range(0, 300, 100):  # every second step a spike of its own: 20 events a batch
        steps = range(burst, burst + 100)
        await agent.send(steps, spikes=[step % 2 for step in steps], spike_ratio_max=[50.0] * 100)
    first = await receiver.next()
    await agent.send([1000], spikes=1, spike_ratio_max=99.0)
    second = await receiver.next()
    assert second.at - first.at > 0.9
    assert receiver.posts.empty()
    assert first.message.counts["spike"] + second.message.counts["spike"] == 61
    assert len(first.message.events) == 3
    assert first.message.omitted == first.message.counts["spike"] - 3


async def test_who_is_told_of_what_is_by_name_and_kind(
    send: Send, webhook: Any, receiver: Receiver, agent: Any, api: Any, make_agent: Any
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
    send: Send, webhook: Any, receiver: Receiver, agent: Any
) -> None:
    await agent.send([1], nonfinite=1)
    await send(webhook())
    await agent.send([5], nonfinite=1)
    assert [event.step for event in (await receiver.next()).message.events] == [5]


async def test_after_its_last_attempt_a_message_is_given_up_and_the_next_one_goes_out(
    send: Send, webhook: Any, receiver: Receiver, agent: Any, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [500, 500]
    sending = await send(webhook(), pace=msgspec.structs.replace(HURRY, attempts=2))
    await agent.send([1], nonfinite=1)
    await gets(lambda: sending.count("dead"), 1)
    await agent.send([5], nonfinite=1)
    assert [[event.step for event in (await receiver.next()).message.events] for _ in range(3)] == [[1], [1], [5]]
    assert any("is given up: answered 500" in line for line in caplog.messages)


async def test_a_receiver_that_is_gone_is_asked_once(send: Send, webhook: Any, receiver: Receiver, agent: Any) -> None:
    receiver.answers = [410]
    sending = await send(webhook())
    await agent.send([1], nonfinite=1)
    await gets(lambda: sending.count("dead"), 1)
    assert sending.count("retried") == 0


async def test_a_redirect_is_not_followed(send: Send, webhook: Any, receiver: Receiver, agent: Any) -> None:
    async with receiving() as elsewhere:
        receiver.answers, receiver.head = [307], f"Location: {elsewhere.url}\r\n"
        await send(webhook())
        await agent.send([1], nonfinite=1)
        assert (await receiver.next()).id == (await receiver.next()).id
        assert elsewhere.posts.empty()


async def test_of_two_processes_one_sends_and_the_other_goes_on_when_it_dies(
    send: Send, webhook: Any, receiver: Receiver, agent: Any
) -> None:
    both = [await send(webhook()), await send(webhook())]
    for step in range(10, 60, 10):
        await agent.send([step], nonfinite=1)
        assert [event.step for event in (await receiver.next()).message.events] == [step]
    await gets(lambda: sum(each.count("delivered") for each in both), 5)
    (sender,) = (each for each in both if each.count("delivered"))
    (other,) = (each for each in both if each is not sender)

    receiver.answers = [500]  # the next message is on its way when its process ends
    await agent.send([70], nonfinite=1)
    lost = await receiver.next()
    await sender.stop()
    found = await receiver.next()
    assert (found.id, found.body) == (lost.id, lost.body)
    await gets(lambda: other.count("delivered"), 1)
    assert receiver.posts.empty()


async def test_slack_gets_text_in_which_no_name_can_wake_a_channel(
    send: Send, webhook: Any, receiver: Receiver, api: Any, make_agent: Any
) -> None:
    await send(webhook(format="slack", secret_file=None), dashboard_url="https://dash.example.org")
    evil = make_agent(api, run_id="evil", name="<!channel> & <https://evil.example|here>")
    await evil.register()
    await evil.send([3], nonfinite=1)
    post = await receiver.next()
    assert "steadynorm-signature" not in post.headers
    body = msgspec.json.decode(post.body)
    assert list(body) == ["text"]
    name = "&lt;!channel&gt; &amp; &lt;https://evil.example|here&gt;"
    assert body["text"].startswith(f"<https://dash.example.org/?run=evil|{name}> `nonfinite` at step 3: ")


async def test_new_events_cost_ingest_no_command(store: Store, store_url: str, anyone: Any, agent: Any) -> None:
    commands = []

    @contextlib.contextmanager
    def count() -> Any:
        commands.append(1)
        yield

    async def ingested(*, listens: bool, sequence: int) -> int:
        async with Store(store_url, clock=store.clock, timed=count).opened() as counted:
            if listens:
                counted.news.listen()
            commands.clear()
            await counted.ingest("tiny-1", agent.batch(sequence, [10 * sequence], nonfinite=1), anyone)
            number = len(commands)
            assert counted.news.take() == (["tiny-1"] if listens else [])
            return number

    assert await ingested(listens=False, sequence=1) == await ingested(listens=True, sequence=2) > 0
