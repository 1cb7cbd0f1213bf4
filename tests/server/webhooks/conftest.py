"""Fixtures of the webhooks' tests: receivers on loopback, dispatchers as server processes have them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.webhooks import KEY, SHORT, Dispatching, Receiver, receiving

from steadynorm_server.redis.keys import WebhookKeys
from steadynorm_server.webhooks.config import Webhook


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """Address of an empty Valkey. One kind is enough here; the cluster's tests have the other."""
    return empty_valkey


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that accepts everything."""
    async with receiving() as started:
        yield started


@pytest.fixture
async def elsewhere() -> AsyncIterator[Receiver]:
    """Another one."""
    async with receiving() as started:
        yield started


@pytest.fixture
def webhook(receiver: Receiver, tmp_path: Path) -> Callable[..., Webhook]:
    """webhook(**what differs) -> a webhook that goes to the receiver."""
    (tmp_path / "secret").write_bytes(KEY + b"\n")

    def make(**changes: Any) -> Webhook:
        given = {"name": "on-call", "url": receiver.url, "secret_file": tmp_path / "secret", "interval_s": 0.0}
        return Webhook(**{**given, **changes})

    return make


@pytest.fixture
async def send(store_url: str) -> AsyncIterator[Callable[..., Any]]:
    """await send(webhook, ...) -> a started dispatcher, ended with the test; one has looked at all runs once."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*webhooks: Webhook, dashboard_url: str | None = None, **intervals: Any) -> Dispatching:
            intervals_ = msgspec.structs.replace(SHORT, **intervals)
            started = await Dispatching(store_url, list(webhooks), intervals_, dashboard_url).start()
            stack.push_async_callback(started.stop)
            while await started.repository.redis.get(WebhookKeys.since) is None:  # noqa: ASYNC110 # no event for it
                await asyncio.sleep(0.01)
            return started

        yield start
