"""Sends events, and lines of the audit stream, to webhooks.

Every server process runs one dispatcher; they share the work through `queue`. Each process appends new events of runs
to the webhooks' queues: at once those that it stored, and in turns those that a process stored and did not append
before it died. Whichever process claims a webhook's next message sends it until its receiver answers 2xx, with growing
intervals, for about an hour. A message keeps its id, so that a receiver recognizes the rare one that comes twice: when
a process dies between the receiver's answer and the acknowledgement.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import msgspec
from prometheus_client import CollectorRegistry

from steadynorm_server.background import background
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.webhooks.audit import AuditLines
from steadynorm_server.webhooks.config import Webhook
from steadynorm_server.webhooks.metrics import WebhookMetrics
from steadynorm_server.webhooks.payload import build_audit_payload, build_payload, to_webhook_event
from steadynorm_server.webhooks.queue import DeliveryQueue, Message

_MAX_AGE_S = 86_400.0
_RUNS_AT_ONCE = 50
_SHUTDOWN_S = 5.0

_log = logging.getLogger(__name__)


class DispatchIntervals(msgspec.Struct, frozen=True):
    """How often and how long, in seconds."""

    poll_s: float = 0.5  # between looks for new events that this process stored
    sweep_s: float = 15.0  # between looks at runs of all processes, by one process
    merge_s: float = 0.5  # from a first event to its message, for others to join it
    claim_margin_s: float = 5.0  # a claim expires this long after the webhook's time-out
    retry_s: float = 1.0  # after a first failure; doubles with each
    max_retry_s: float = 600.0
    max_attempts: int = 16


class WebhookDispatcher:
    """Sends events for as long as the block of `async with dispatcher.running():` runs.

    clock: Unix seconds.
    """

    def __init__(
        self,
        repository: RunRepository,
        webhooks: Sequence[Webhook],
        dashboard_url: str | None,
        registry: CollectorRegistry,
        intervals: DispatchIntervals = DispatchIntervals(),  # noqa: B008 # it is immutable
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._new_events = repository.dirty_runs
        self._queue = DeliveryQueue(repository.redis)
        self._webhooks = {each.name: each for each in webhooks}
        self._dashboard_url = dashboard_url
        self._metrics = WebhookMetrics(registry, list(self._webhooks))
        self._intervals = intervals
        self._clock = clock
        self._appended = {name: asyncio.Event() for name in self._webhooks}
        audited = [each for each in webhooks if each.audit]
        self._audit = AuditLines(self._queue, audited, self._appended)
        self._attempts: set[asyncio.Task[None]] = set()
        self._done: dict[str, str] = {}  # by webhook, its last message that is done, whether or not Redis recorded it

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send during the block; without webhooks do nothing."""
        if not self._webhooks:
            yield
            return
        from steadynorm_server.webhooks.sender import WebhookSender  # only servers with webhooks load its libraries

        self._new_events.enable()
        async with WebhookSender(self._clock) as self._sender, contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._finish_attempts)
            for each in self._webhooks.values():
                await stack.enter_async_context(background(f"webhook {each.name}", partial(self._deliver, each)))
            await stack.enter_async_context(background("webhooks", self._collect))
            await stack.enter_async_context(self._audit.running())
            yield

    async def update_waiting_metric(self) -> None:
        """Set the age of the oldest undelivered event of each webhook, for a scrape."""
        oldest = await self._queue.oldest(list(self._webhooks)) if self._webhooks else {}
        now = self._clock()
        for name in self._webhooks:
            self._metrics.oldest.labels(name).set(max(0.0, now - oldest.get(name, now)))
        if self._webhooks:
            self._metrics.lines_dropped.set(self._audit.dropped)

    async def _finish_attempts(self) -> None:
        """What is being sent would otherwise be sent again by another process."""
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=_SHUTDOWN_S)

    async def _collect(self) -> None:
        """Append new events to the queues."""
        next_sweep = 0.0
        while True:
            hinted, sweeps = self._new_events.drain(), False
            try:
                if time.monotonic() >= next_sweep:
                    next_sweep = time.monotonic() + self._intervals.sweep_s
                    sweeps = await self._queue.start_sweep(self._intervals.sweep_s)
                if hinted or sweeps:
                    known = await self._queue.append([])
                    oldest = max(known.since, known.now - round(_MAX_AGE_S * 1000))
                    swept = await self._queue.sweep_runs(oldest) if sweeps else []
                    run_ids = list(dict.fromkeys([*hinted, *swept]))
                    for first in range(0, len(run_ids), _RUNS_AT_ONCE):
                        await self._append(run_ids[first : first + _RUNS_AT_ONCE], oldest)
            except Exception:
                for run_id in hinted:  # the next pass takes them
                    self._new_events.mark(run_id)
                raise
            await asyncio.sleep(self._intervals.poll_s)

    async def _append(self, run_ids: Sequence[str], oldest: int) -> None:
        taken = []
        for unread in await self._queue.unread(run_ids, oldest):
            events = [to_webhook_event(unread.run_id, unread.run, each, self._dashboard_url) for each in unread.events]
            queues = {
                name: matching
                for name, webhook in self._webhooks.items()
                if (matching := [event for event in events if webhook.matches(event.run, event.kind)])
            }
            taken.append((unread, queues))
            if unread.more:
                self._new_events.mark(unread.run_id)
        if not taken:
            return
        self._metrics.dropped.inc((await self._queue.append(taken)).dropped)
        for name in {name for _, queues in taken for name in queues}:
            self._appended[name].set()

    async def _deliver(self, webhook: Webhook) -> None:
        """Send a webhook's messages, one after another."""
        appended, hold_s = self._appended[webhook.name], webhook.timeout_s + self._intervals.claim_margin_s
        while True:
            appended.clear()
            claimed = await self._queue.claim(webhook.name, hold_s, self._intervals.merge_s, webhook.interval_s)
            if isinstance(claimed, Message):
                attempt = asyncio.create_task(self._attempt(webhook, claimed))
                self._attempts.add(attempt)
                attempt.add_done_callback(self._attempts.discard)
                await asyncio.shield(attempt)
            else:  # other processes append too, and may die
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(appended.wait(), min(claimed, self._intervals.sweep_s))

    async def _attempt(self, webhook: Webhook, message: Message) -> None:
        name, deliveries = webhook.name, self._metrics.deliveries
        if self._done.get(name) != message.id:  # else Redis did not answer when this should have been recorded
            if webhook.audit:
                body = build_audit_payload(webhook, message.id, message.lines)
            else:
                body = build_payload(webhook, message.id, message.events, message.counts)
            result = await self._sender.send(webhook, message.id, body)
            if not result.delivered and not result.gone and message.attempts < self._intervals.max_attempts:
                wait_s = self._intervals.retry_s * 2 ** (message.attempts - 1) * random.uniform(0.5, 1)
                wait_s = max(min(self._intervals.max_retry_s, wait_s), result.retry_after_s)
                _log.warning("webhook %s: %s; sending again in %.0f s", name, result.detail, wait_s)
                deliveries.labels(name, "retried").inc()
                await self._queue.schedule_retry(name, message, wait_s)
                return
            self._done[name] = message.id
            if not result.delivered:
                _log.error("webhook %s: message %s is given up: %s", name, message.id, result.detail)
            deliveries.labels(name, "delivered" if result.delivered else "dead").inc()
        await self._queue.mark_done(name, message)
