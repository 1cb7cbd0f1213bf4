"""Health checks for orchestrators, and metrics for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from steadynorm_server.api.authorization import requires
from steadynorm_server.api.dependencies import MetricsOf, QueriesOf, RepositoryOf
from steadynorm_server.api.openapi.schema import ACCESS, errors
from steadynorm_server.api.requests import json_response
from steadynorm_server.auth.principals import Role
from steadynorm_server.metrics.run_metrics import CONTENT_TYPE, exposition, gather

router = APIRouter(tags=["health"])
_viewer = requires(Role.VIEWER)


@router.get("/healthz")
async def healthz() -> Response:
    """The process responds."""
    return json_response({"status": "ok"})


@router.get("/readyz", responses=errors(503))
async def readyz(repository: RepositoryOf) -> Response:
    """The process responds, and Redis takes writes; 503 otherwise."""
    await repository.check()
    return json_response({"status": "ok"})


@router.get("/metrics", response_class=PlainTextResponse, responses=errors(*ACCESS))
async def show_metrics(request: Request, queries: QueriesOf, repository: RepositoryOf, metrics: MetricsOf) -> Response:
    """All runs that have not ended, and the server itself, for Prometheus."""
    config = request.app.state.config
    if config.metrics_auth:
        await _viewer(request)
    runs = await gather(repository, queries, config.top_parameters, config.forget_after_s)
    await request.app.state.webhooks.update_waiting_metric()
    return Response(exposition(runs, metrics), media_type=CONTENT_TYPE)
