"""What routes get handed. It hangs on the application, so tests and several applications in one process keep apart.

All of it is async, though nothing waits: FastAPI would send a plain function to a thread.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, Request

from steadynorm_server.metrics.instruments import ServerMetrics
from steadynorm_server.retention.policy import Limits
from steadynorm_server.runs.queries import RunQueries
from steadynorm_server.runs.repository import RunRepository

__all__ = ["LimitsOf", "MetersOf", "QueriesOf", "RepositoryOf", "StoppingOf"]


async def _store(request: Request) -> RunRepository:
    repository: RunRepository = request.app.state.repository
    return repository


async def _reader(request: Request) -> RunQueries:
    return RunQueries(await _store(request))


async def _meters(request: Request) -> ServerMetrics:
    meters: ServerMetrics = request.app.state.meters
    return meters


async def _stopping(request: Request) -> asyncio.Event:
    stopping: asyncio.Event = request.app.state.stopping
    return stopping


async def _limits(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


RepositoryOf = Annotated[RunRepository, Depends(_store)]
QueriesOf = Annotated[RunQueries, Depends(_reader)]
MetersOf = Annotated[ServerMetrics, Depends(_meters)]
LimitsOf = Annotated[Limits, Depends(_limits)]
StoppingOf = Annotated[asyncio.Event, Depends(_stopping)]
"""Set when the server was told to stop: nothing waits any longer."""
