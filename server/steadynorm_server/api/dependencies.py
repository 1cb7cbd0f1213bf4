"""What routes take as arguments, from the application's state.

All of it is async, though nothing waits: FastAPI would run a plain function in a thread.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, Request

from steadynorm_server.api.authorization import requires
from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.metrics.instruments import ServerMetrics
from steadynorm_server.retention.policy import Limits
from steadynorm_server.runs.queries import RunQueries
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.telemetry.service import TelemetryService


async def _repository(request: Request) -> RunRepository:
    repository: RunRepository = request.app.state.repository
    return repository


async def _queries(request: Request) -> RunQueries:
    return RunQueries(request.app.state.repository)


async def _metrics(request: Request) -> ServerMetrics:
    metrics: ServerMetrics = request.app.state.metrics
    return metrics


async def _telemetry(request: Request) -> TelemetryService:
    telemetry: TelemetryService = request.app.state.telemetry
    return telemetry


async def _stopping(request: Request) -> asyncio.Event:
    stopping: asyncio.Event = request.app.state.stopping
    return stopping


async def _limits(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


VIEWER = [Depends(requires(Role.VIEWER))]
"""`dependencies` of a route that only reads."""
Operator = Annotated[Principal, Depends(requires(Role.OPERATOR))]
Agent = Annotated[Principal, Depends(requires(Role.AGENT))]
RepositoryOf = Annotated[RunRepository, Depends(_repository)]
QueriesOf = Annotated[RunQueries, Depends(_queries)]
TelemetryOf = Annotated[TelemetryService, Depends(_telemetry)]
MetricsOf = Annotated[ServerMetrics, Depends(_metrics)]
LimitsOf = Annotated[Limits, Depends(_limits)]
StoppingOf = Annotated[asyncio.Event, Depends(_stopping)]
"""Set while the server shuts down: nothing waits any longer."""
