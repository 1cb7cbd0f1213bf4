"""Retention of a run: how much data it may have and how long it is kept."""

from fastapi import APIRouter, Request, Response

from steadynorm_contract.retention import Retention, RetentionUpdate
from steadynorm_server.api import API
from steadynorm_server.api.dependencies import VIEWER, LimitsOf, Operator, RepositoryOf
from steadynorm_server.api.openapi.schema import RUN, responses, takes
from steadynorm_server.api.requests import json_response, read_json
from steadynorm_server.retention import policy

router = APIRouter(prefix=API, tags=["runs"])


@router.get("/runs/{run_id}/retention", dependencies=VIEWER, responses=responses(Retention, *RUN, 422))
async def show_retention(run_id: str, repository: RepositoryOf, limits: LimitsOf) -> Response:
    """The run's own limits, the limits in force, when the run will be removed, and who changed the limits."""
    return json_response(policy.retention_of(await repository.get(run_id), limits))


@router.put("/runs/{run_id}/retention", **takes(RetentionUpdate, Retention, *RUN, 412, 422))
async def replace_retention(
    run_id: str, request: Request, sender: Operator, repository: RepositoryOf, limits: LimitsOf
) -> Response:
    """Replace the run's own limits, also of a run that has ended. null: the server's default."""
    requested = await read_json(request, RetentionUpdate)
    return json_response(await policy.replace(repository, run_id, requested, limits, sender.name))
