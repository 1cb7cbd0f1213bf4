"""Events go out to webhooks: of all server processes one does it at a time, and if it dies another goes on.

The one that holds the lease looks for new events (`news` and `outbox` tell where), merges them into messages and sends
each until its receiver answers 2xx, waiting longer and longer, for about an hour. Every message keeps its id, so the
rare one that comes twice, after a process died between an answer and its note of it, can be told. The lease is renewed
beside all that, however long it takes, and nothing is sent without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import msgspec
from prometheus_client import CollectorRegistry

from steadynorm_server.background import background
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.webhooks import payload
from steadynorm_server.webhooks.config import Webhook
from steadynorm_server.webhooks.metrics import Outcome, WebhookMetrics
from steadynorm_server.webhooks.queue import DeliveryQueue, Message
from steadynorm_server.webhooks.sender import WebhookSender

__all__ = ["DispatchIntervals", "WebhookDispatcher"]

_MAX_AGE_S = 86_400.0
_LAST_WORDS_S = 5.0

_log = logging.getLogger(__name__)


class DispatchIntervals(msgspec.Struct, frozen=True):
    """How often and how long, in seconds; tests are in a hurry."""

    look_s: float = 0.5  # for new events that a process told of
    sweep_s: float = 15.0  # over all runs, for those of a process that died before it told
    lease_s: float = 3.0
    gather_s: float = 0.5  # from a first event to its message, for what comes along with it
    again_s: float = 1.0  # after a first failure; doubles with each
    again_at_most_s: float = 600.0
    attempts: int = 16


class WebhookDispatcher:
    """One process's part in it. `async with mailer.running():` beside the requests.

    clock: Unix seconds.
    """

    def __init__(
        self,
        repository: RunRepository,
        webhooks: Sequence[Webhook],
        dashboard_url: str | None,
        registry: CollectorRegistry,
        pace: DispatchIntervals = DispatchIntervals(),  # noqa: B008 # it is immutable
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._news = repository.news
        self._outbox = DeliveryQueue(repository.redis, pace.lease_s)
        self._webhooks = webhooks
        self._dashboard_url = dashboard_url
        self._meters = WebhookMetrics(registry, [each.name for each in webhooks]) if webhooks else None
        self._pace = pace
        self._clock = clock
        self._queued = {each.name: asyncio.Event() for each in webhooks}
        self._attempts: dict[str, asyncio.Task[None]] = {}
        self._free_at = {each.name: 0.0 for each in webhooks}  # when its next message may be made, Unix seconds
        self._over: dict[str, str] = {}  # message that is over, whether or not the store could note it

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send for as long as the block runs; without webhooks do nothing."""
        if not self._webhooks:
            yield
            return
        self._news.listen()
        async with WebhookSender(self._clock) as self._poster:
            async with background("the webhooks' lease", self._keep):
                async with background("webhooks", self._work):
                    yield
                if self._attempts:  # what is being sent would else be sent again by the next process
                    await asyncio.wait(self._attempts.values(), timeout=_LAST_WORDS_S)
            with contextlib.suppress(Exception):  # then it runs out by itself
                await self._outbox.leave()

    async def note_waiting(self) -> None:
        """Look how long the oldest undelivered event of each webhook has been waiting, for a scrape."""
        if self._meters is not None:
            oldest = {each.name: await self._outbox.oldest(each.name) for each in self._webhooks}
            now = self._clock()
            self._meters.waiting({name: max(0.0, now - (since or now)) for name, since in oldest.items()})

    async def _keep(self) -> None:
        while True:
            await self._outbox.renew()
            await asyncio.sleep(min(self._pace.look_s, self._pace.lease_s / 3))

    async def _work(self) -> None:
        while True:
            if self._outbox.lease is None:
                await self._outbox.pass_on(self._news.take())
            else:
                await self._serve()
            await asyncio.sleep(self._pace.look_s)

    async def _serve(self) -> None:
        """Collect and send until the lease is lost."""
        async with contextlib.AsyncExitStack() as stack:
            for each in self._webhooks:
                await stack.enter_async_context(background(f"webhook {each.name}", partial(self._send, each)))
            swept = -self._pace.sweep_s
            while lease := self._outbox.lease:
                oldest = max(lease.since, lease.now - round(_MAX_AGE_S * 1000))
                told = sorted({*self._news.take(), *await self._outbox.passed_on()})
                if (now := time.monotonic()) >= swept + self._pace.sweep_s:
                    swept, told = now, await self._outbox.all_runs(oldest)
                await self._collect(told, oldest)
                await asyncio.sleep(self._pace.look_s)

    async def _collect(self, run_ids: Sequence[str], oldest: int) -> None:
        taken = []
        for unread in await self._outbox.unread(run_ids, oldest):
            queues = {}
            for webhook in self._webhooks:
                wanted = [event for event in unread.events if webhook.wants(unread.run, event.kind)]
                if wanted:
                    queues[webhook.name] = [
                        payload.told(unread.run_id, unread.run, event, self._dashboard_url) for event in wanted
                    ]
            taken.append((unread, queues))
            if unread.more:
                self._news.note(unread.run_id)
        if (left_out := await self._outbox.take(taken)) and self._meters:
            self._meters.dropped(left_out)
        for name in {name for _, queues in taken for name in queues}:
            self._queued[name].set()

    async def _send(self, webhook: Webhook) -> None:
        """Messages of one webhook, one after another, while the lease is ours."""
        if attempt := self._attempts.get(webhook.name):  # of before the lease was lost and found again
            await asyncio.wait([attempt])
        while self._outbox.lease:
            self._queued[webhook.name].clear()
            message = await self._outbox.message(webhook.name)
            if message is None:
                if not await self._compose(webhook):
                    await self._queued[webhook.name].wait()
                continue
            if (wait_s := message.due - self._clock()) > 0:
                await asyncio.sleep(wait_s)
                continue  # meanwhile another process may have had the lease, and sent it
            attempt = self._attempts[webhook.name] = asyncio.create_task(self._attempt(webhook, message))
            attempt.add_done_callback(lambda _: self._attempts.pop(webhook.name, None))
            await asyncio.shield(attempt)

    async def _compose(self, webhook: Webhook) -> bool:
        """Make the next message. Returns whether there was anything to tell."""
        if await self._outbox.oldest(webhook.name) is None:
            return False
        await asyncio.sleep(max(self._pace.gather_s, self._free_at[webhook.name] - self._clock()))
        if waiting := await self._outbox.gather(webhook.name):
            message_id = secrets.token_hex(16)
            body = payload.body(webhook, message_id, waiting.events, waiting.counts)
            await self._outbox.compose(webhook.name, message_id, body, waiting)
            self._free_at[webhook.name] = self._clock() + webhook.interval_s
        return True

    async def _attempt(self, webhook: Webhook, message: Message) -> None:
        if self._over.get(webhook.name) == message.id:  # the store was away when it should have heard of it
            await self._outbox.over(webhook.name, message.id)
            return
        if self._outbox.lease is None:  # another process may be sending it
            return
        answer = await self._poster.post(webhook, message.id, message.body)
        attempts = message.attempts + 1
        if answer.delivered or answer.gone or attempts >= self._pace.attempts:
            self._over[webhook.name] = message.id
            if not answer.delivered:
                _log.error("webhook %s: message %s is given up: %s", webhook.name, message.id, answer.why)
            self._sent(webhook, "delivered" if answer.delivered else "dead")
            await self._outbox.over(webhook.name, message.id)
            return
        wait_s = min(self._pace.again_at_most_s, self._pace.again_s * 2 ** (attempts - 1)) * random.uniform(0.5, 1)
        wait_s = max(wait_s, answer.retry_after_s)
        _log.warning("webhook %s: %s; sending again in %.0f s", webhook.name, answer.why, wait_s)
        self._sent(webhook, "retried")
        await self._outbox.again(webhook.name, message.id, self._clock() + wait_s)

    def _sent(self, webhook: Webhook, outcome: Outcome) -> None:
        if self._meters is not None:
            self._meters.sent(webhook.name, outcome)
