"""What a run may take in the store and how long it is kept."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from starlette.requests import Request

from steadynorm_contract.codec import decode_json
from steadynorm_contract.retention import Retention, RetentionUpdate
from steadynorm_server.api.authorization import requires
from steadynorm_server.api.dependencies import LimitsOf, RepositoryOf
from steadynorm_server.api.openapi.schema import body, responses
from steadynorm_server.api.requests import JSON, MAX_SMALL_BYTES, json_response, read_body
from steadynorm_server.auth.tokens import Principal, Role
from steadynorm_server.retention import policy

router = APIRouter(tags=["runs"])


@router.get("/runs/{run_id}/retention", dependencies=[Depends(requires(Role.VIEWER))], responses=responses(Retention))
async def show_retention(run_id: str, repository: RepositoryOf, limits: LimitsOf) -> Response:
    """What was set for the run, what holds for it, when it will be removed, and who changed it."""
    return json_response(policy.shown(await repository.find(run_id), limits))


@router.put("/runs/{run_id}/retention", responses=responses(Retention), openapi_extra=body(RetentionUpdate))
async def replace_retention(
    run_id: str,
    request: Request,
    sender: Annotated[Principal, Depends(requires(Role.OPERATOR))],
    repository: RepositoryOf,
    limits: LimitsOf,
) -> Response:
    """Set what the run may take and how long it is kept; null is the server's default. Ended runs take it, too."""
    wanted = decode_json(await read_body(request, JSON, MAX_SMALL_BYTES), RetentionUpdate)
    return json_response(await policy.replace(repository, run_id, wanted, limits, sender.name))
