"""What routes take as arguments, from the application's state."""

import asyncio
from typing import Annotated, Any

from fastapi import Depends, Request

from steadynorm_server.api.authorization import requires
from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.metrics.instruments import ServerMetrics
from steadynorm_server.metrics.scrapes import Scrapes
from steadynorm_server.retention.policy import Limits
from steadynorm_server.runs.fleet import Fleet
from steadynorm_server.runs.queries import RunQueries
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.telemetry.service import TelemetryService


def _state(name: str) -> Any:
    """The dependency whose value is `app.state.NAME`."""

    async def find(request: Request) -> Any:  # async, though it waits for nothing: else FastAPI starts a thread for it
        return getattr(request.app.state, name)

    return Depends(find)


VIEWER = [Depends(requires(Role.VIEWER))]
"""`dependencies` of a route that only reads."""
Viewer = Annotated[Principal, Depends(requires(Role.VIEWER))]
Operator = Annotated[Principal, Depends(requires(Role.OPERATOR))]
Agent = Annotated[Principal, Depends(requires(Role.AGENT))]
RepositoryOf = Annotated[RunRepository, _state("repository")]
QueriesOf = Annotated[RunQueries, _state("queries")]
FleetOf = Annotated[Fleet, _state("fleet")]
TelemetryOf = Annotated[TelemetryService, _state("telemetry")]
MetricsOf = Annotated[ServerMetrics, _state("metrics")]
ScrapesOf = Annotated[Scrapes, _state("scrapes")]
LimitsOf = Annotated[Limits, _state("limits")]
StoppingOf = Annotated[asyncio.Event, _state("stopping")]
"""Set while the server shuts down: nothing waits any longer."""
