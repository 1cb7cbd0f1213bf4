"""Health checks for orchestrators, and metrics for Prometheus."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from steadynorm_server.api.authorization import requires
from steadynorm_server.api.dependencies import RepositoryOf, ScrapesOf
from steadynorm_server.api.openapi.schema import ACCESS, errors
from steadynorm_server.api.requests import json_response
from steadynorm_server.auth.principals import Role
from steadynorm_server.errors import ProblemError

router = APIRouter(tags=["health"])
_viewer = requires(Role.VIEWER)


@router.get("/healthz")
async def healthz() -> Response:
    """The process responds."""
    return json_response({"status": "ok"})


@router.get("/readyz", responses=errors(503))
async def readyz(request: Request, repository: RepositoryOf) -> Response:
    """The process responds, is not about to stop, and Redis takes writes; 503 otherwise."""
    if request.app.state.draining:
        raise ProblemError(503, "this server is about to stop: use another one.", title="Stopping")
    await repository.check()
    return json_response({"status": "ok"})


@router.get("/metrics", response_class=PlainTextResponse, responses=errors(*ACCESS))
async def show_metrics(request: Request, scrapes: ScrapesOf) -> Response:
    """All runs that have not ended, and the server itself, for Prometheus. At most a second old."""
    visible = (await _viewer(request)).runs if request.app.state.config.metrics_need_token else None
    asked = request.headers
    body, headers = await scrapes.answer(visible, asked.get("accept", ""), asked.get("accept-encoding", ""))
    return Response(body, headers=headers)
