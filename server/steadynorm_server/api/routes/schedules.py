"""Changes that wait for a step."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from starlette.requests import Request

from steadynorm_contract.codec import decode_json
from steadynorm_contract.schedules import NewSchedule, Schedule, ScheduleList
from steadynorm_server.api.authorization import requires
from steadynorm_server.api.dependencies import RepositoryOf
from steadynorm_server.api.openapi.schema import body, responses
from steadynorm_server.api.requests import JSON, MAX_SMALL_BYTES, json_response, read_body
from steadynorm_server.auth.tokens import Principal, Role
from steadynorm_server.automation import schedules

router = APIRouter(tags=["settings"])
Operator = Annotated[Principal, Depends(requires(Role.OPERATOR))]


@router.get(
    "/runs/{run_id}/schedules", dependencies=[Depends(requires(Role.VIEWER))], responses=responses(ScheduleList)
)
async def list_schedules(run_id: str, repository: RepositoryOf) -> Response:
    """Changes that wait for a step, the next one first, then the last ones that were made."""
    return json_response(schedules.listed(await repository.find(run_id)))


@router.post(
    "/runs/{run_id}/schedules", responses=responses(Schedule, 201), openapi_extra=body(NewSchedule), status_code=201
)
async def create_schedule(run_id: str, request: Request, sender: Operator, repository: RepositoryOf) -> Response:
    """Change the settings once the run has reached `from_step`; 422 if it has already."""
    wanted = decode_json(await read_body(request, JSON, MAX_SMALL_BYTES), NewSchedule)
    made = await schedules.create(repository, run_id, wanted, sender.name)
    return json_response(made, 201, {"Location": f"/api/v1/runs/{run_id}/schedules"})


@router.delete(
    "/runs/{run_id}/schedules/{schedule_id}",
    status_code=204,
    dependencies=[Depends(requires(Role.OPERATOR))],
    responses=responses(None, 204),
)
async def delete_schedule(run_id: str, schedule_id: str, repository: RepositoryOf) -> Response:
    """Take back a schedule that waits."""
    await schedules.remove(repository, run_id, schedule_id)
    return Response(status_code=204)
