"""What a process learnt about its own runs is sent from soon, also where it looks at all runs or Redis fails then."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from tests.support.webhooks import SHORT

from steadynorm_server.runs.event_hints import DirtyRuns
from steadynorm_server.webhooks import dispatcher
from steadynorm_server.webhooks.config import Webhook


class Queue:
    """A queue whose first two calls fail, and whose look at all runs finds one."""

    def __init__(self, _redis: object) -> None:
        self.failures = 2
        self.read: asyncio.Queue[list[str]] = asyncio.Queue()

    async def start_sweep(self, _within_s: float) -> bool:
        return True

    async def append(self, _taken: object) -> Any:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the store is away")
        return SimpleNamespace(since=0, dropped=0, now=0)

    async def sweep_runs(self, _oldest: int) -> list[str]:
        return ["swept"]

    async def unread(self, run_ids: Sequence[str], _oldest: int) -> list[Any]:
        self.read.put_nowait(list(run_ids))
        return []

    async def claim(self, *_: object) -> float:
        return math.inf


async def test_hints_survive_a_look_at_all_runs_and_an_error(
    webhook: Callable[..., Webhook], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue(None)
    monkeypatch.setattr(dispatcher, "DeliveryQueue", lambda _redis: queue)
    monkeypatch.setattr("steadynorm_server.background._RESTART_AFTER_S", 0.01)
    hints = DirtyRuns()
    repository = cast("Any", SimpleNamespace(dirty_runs=hints, redis=None))
    sending = dispatcher.WebhookDispatcher(repository, [webhook()], None, CollectorRegistry(), SHORT)
    hints.enable()
    async with sending.running():
        hints.mark("mine")
        assert sorted(await asyncio.wait_for(queue.read.get(), 20)) == ["mine", "swept"]
