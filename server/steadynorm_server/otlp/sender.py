"""Sends metrics and events, each in turns that the server processes of one Redis share: in each, one of them sends.
Each tells what it counts of itself, under a `service.instance.id`: else their counts would be taken for one that leaps.

A receiver that hangs holds one thread of that signal: no request waits for it, and metrics do not wait for events. What
it does not take of the metrics is gone, as a scrape that failed; events are sent again with the next turn, for an hour.
An event may be sent twice: its `steadynorm.event_id` is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CollectorRegistry, Counter

from steadynorm_contract.events import Event
from steadynorm_server.background import background
from steadynorm_server.redis.keys import LIVE, RunKeys
from steadynorm_server.runs.events import MAX_EVENTS
from steadynorm_server.runs.repository import RunRepository

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

_INSTANCE = "service.instance.id"
_INTERVAL_MS = "OTEL_METRIC_EXPORT_INTERVAL"
_TURN, _UNTIL, _CLOCK = "steadynorm:otlp:turn:", "steadynorm:otlp:until", "steadynorm:otlp:clock"
_SETTLED_MS = 2_000
"""Events younger than this wait for the next turn: clocks of a cluster's primaries may differ so much."""
_MAX_AGE_MS = 3_600_000
_AT_ONCE = 100  # events of one run in one turn, and runs in one read
_RUNS_TOUCHED = 1000
_WITHIN_S = 60.0

_log = logging.getLogger(__name__)


class OtlpSender:
    """Of one process. read_metrics: what /metrics shows, as text."""

    def __init__(
        self,
        repository: RunRepository,
        read_metrics: Callable[[], Awaitable[bytes]],
        registry: CollectorRegistry,
    ) -> None:
        self._repository, self._read_metrics = repository, read_metrics
        self._interval_s = float(os.environ.get(_INTERVAL_MS) or 60_000) / 1000
        self._began = time.monotonic()
        # Workers of one server count together.
        shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        self._instance = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{platform.node()}:{shared}") if shared else uuid.uuid4())
        self._busy: set[str] = set()  # signals that a thread is sending
        self._exports = Counter(
            "steadynorm_otlp_exports",
            "Sent by OTLP by this process: metrics and events, delivered or failed.",
            ("signal", "outcome"),
            registry=registry,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send during the block."""
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.resources import Resource

        about = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or "steadynorm"}).attributes
        # The SDK makes an id for each process. Runs and events are of none, and one of your own is of all.
        mine = {} if f"{_INSTANCE}=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "") else {_INSTANCE: self._instance}
        self._server = Resource({**about, **mine})
        self._resource = Resource({name: value for name, value in about.items() if name not in mine})
        self._metrics_to, self._events_to = OTLPMetricExporter(), OTLPLogExporter()
        try:
            async with (
                background("otlp-metrics", self._send_metrics_in_turns),
                background("otlp-events", partial(self._in_turns, "events", self._send_events)),
            ):
                yield
        finally:  # what tries again in a thread ends
            self._metrics_to.shutdown()
            self._events_to.shutdown()  # type: ignore[no-untyped-call]  # theirs has no types

    async def _is_turn(self, signal: str) -> bool:
        return await self._repository.redis.set_if_absent(_TURN + signal, max(1, round(900 * self._interval_s)))

    async def _in_turns(self, signal: str, send: Callable[[], Awaitable[None]]) -> None:
        while True:
            if await self._is_turn(signal):
                await send()
            await asyncio.sleep(self._interval_s)

    async def _send_metrics_in_turns(self) -> None:
        while True:
            of_runs = self._resource if await self._is_turn("metrics") else None
            of_server = self._server if await self._is_turn(f"server:{self._instance}") else None
            if of_runs or of_server:
                await self._send_metrics(of_runs, of_server)
            await asyncio.sleep(self._interval_s)

    async def _send_metrics(self, of_runs: Resource | None, of_server: Resource | None) -> None:
        from steadynorm_server.otlp.encoding import metrics_data

        text = await self._read_metrics()
        await self._in_thread("metrics", lambda: self._metrics_to.export(metrics_data(text, of_runs, of_server)))

    async def _send_events(self) -> None:
        from steadynorm_server.otlp.encoding import log_record

        redis, now = self._repository.redis, await self._redis_now_ms()
        known, until = int(await redis.get(_UNTIL) or 0), now - _SETTLED_MS
        began = now - round(1000 * (time.monotonic() - self._began))
        since = max(known or began, now - _MAX_AGE_MS)  # the first time: since this process began
        read = await self._events(since, until)
        until = min(until, self._complete_until)
        if found := [each for each in read if _ms(each[2].id) < until]:
            records = [log_record(*each, self._resource) for each in found]
            if not await self._in_thread("events", lambda: self._events_to.export(records)):
                return
        await redis.set(_UNTIL, str(until))

    async def _redis_now_ms(self) -> int:
        """Unix ms by the clock that gives events their ids: with that of a machine which is ahead, some were passed by.

        The id of an entry tells it. TIME is not among the commands that a user of Redis was told to allow.
        """
        (entry,) = await self._repository.redis.pipeline(("xadd", _CLOCK, {"turn": ""}, "*", 1, False))
        return _ms(entry.decode())

    async def _events(self, since: int, until: int) -> Sequence[tuple[str, str, Event]]:
        """(run id, run's name, event) of all runs in [since, until), Unix ms; of each run the first ones."""
        repository, found = self._repository, []
        self._complete_until = until
        lately = await repository.index.lately(_RUNS_TOUCHED)
        run_ids = list(dict.fromkeys([*await repository.redis.index(LIVE), *lately]))
        for first in range(0, len(run_ids), _AT_ONCE):
            some = run_ids[first : first + _AT_ONCE]
            # After the last possible entry of the millisecond before.
            places = [(RunKeys(run_id).events, f"{since - 1}-{2**60}") for run_id in some]
            read = await repository.redis.entries_of(places, _AT_ONCE)
            names = await repository.redis.fields([(RunKeys(run_id).run, "name") for run_id in some])
            for run_id, place, entries, name in zip(some, places, read, names, strict=True):
                if len(entries) == _AT_ONCE and _ms(entries[0][0]) == _ms(entries[-1][0]):
                    # All of one batch, which had more: the next turn begins with the millisecond of its last.
                    (entries,) = await repository.redis.entries_of([place], MAX_EVENTS)
                elif len(entries) == _AT_ONCE:
                    self._complete_until = min(self._complete_until, _ms(entries[-1][0]))
                for at, fields in entries if name is not None else ():
                    if _ms(at) < until:
                        event = msgspec.json.decode(fields[b"event"], type=Event)
                        found.append((run_id, name.decode(), msgspec.structs.replace(event, id=at)))  # type: ignore[union-attr] # not None, see above
        return found

    async def _in_thread(self, signal: str, export: Callable[[], Any]) -> bool:
        """Whether the receiver took it. At most one thread of each signal: one that hangs is not joined by others."""
        if signal in self._busy:
            self._exports.labels(signal, "failed").inc()
            return False
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        outcome: list[bool] = []
        self._busy.add(signal)

        def work() -> None:
            try:
                outcome.append(export().name == "SUCCESS")
            except Exception as error:
                _log.warning("OTLP: %s are not sent: %r", signal, error)
            finally:
                self._busy.discard(signal)
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(done.set)

        threading.Thread(target=work, name=f"otlp-{signal}", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), _WITHIN_S)
        delivered = outcome == [True]
        self._exports.labels(signal, "delivered" if delivered else "failed").inc()
        return delivered


def _ms(entry: str) -> int:
    return int(entry.partition("-")[0])
