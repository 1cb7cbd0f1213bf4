"""For orchestrators and Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from steadynorm_server.api.authorization import requires
from steadynorm_server.api.dependencies import MetersOf, QueriesOf, RepositoryOf
from steadynorm_server.api.requests import json_response
from steadynorm_server.auth.tokens import Role
from steadynorm_server.metrics.run_metrics import CONTENT_TYPE, exposition, gather

router = APIRouter(tags=["health"])
_viewer = requires(Role.VIEWER)


@router.get("/healthz")
async def healthz() -> Response:
    """The process answers."""
    return json_response({"status": "ok"})


@router.get("/readyz", responses={503: {"description": "The store does not answer, or takes no writes"}})
async def readyz(repository: RepositoryOf) -> Response:
    """The process answers, and its store takes writes; 503 otherwise."""
    await repository.check()
    return json_response({"status": "ok"})


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request, reader: QueriesOf, repository: RepositoryOf, meters: MetersOf) -> Response:
    """All runs that have not ended, and the server itself, for Prometheus."""
    settings = request.app.state.settings
    if settings.metrics_auth:
        await _viewer(request)
    runs = await gather(repository, reader, settings.top_parameters, settings.forget_after_s)
    await request.app.state.webhooks.update_waiting_metric()
    return Response(exposition(runs, meters), media_type=CONTENT_TYPE)
