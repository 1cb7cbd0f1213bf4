"""What routes get handed. It hangs on the application, so tests and several applications in one process keep apart.

All of it is async, though nothing waits: FastAPI would send a plain function to a thread.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, Request

from steadynorm_server.metrics.instruments import Meters
from steadynorm_server.retention.policy import Limits
from steadynorm_server.runs.queries import Reader
from steadynorm_server.runs.repository import Store

__all__ = ["LimitsOf", "MetersOf", "ReaderOf", "StoppingOf", "StoreOf"]


async def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


async def _reader(request: Request) -> Reader:
    return Reader(await _store(request))


async def _meters(request: Request) -> Meters:
    meters: Meters = request.app.state.meters
    return meters


async def _stopping(request: Request) -> asyncio.Event:
    stopping: asyncio.Event = request.app.state.stopping
    return stopping


async def _limits(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


StoreOf = Annotated[Store, Depends(_store)]
ReaderOf = Annotated[Reader, Depends(_reader)]
MetersOf = Annotated[Meters, Depends(_meters)]
LimitsOf = Annotated[Limits, Depends(_limits)]
StoppingOf = Annotated[asyncio.Event, Depends(_stopping)]
"""Set when the server was told to stop: nothing waits any longer."""
