"""Settings changes that are made once a run reaches a step."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from steadynorm_contract.schedules import NewSchedule, Schedule, ScheduleList
from steadynorm_server.api.authorization import requires
from steadynorm_server.api.dependencies import VIEWER, Operator, RepositoryOf
from steadynorm_server.api.openapi.schema import BODY, RUN, body, responses
from steadynorm_server.api.requests import json_response, read_json
from steadynorm_server.auth.principals import Role
from steadynorm_server.automation import schedules

router = APIRouter(tags=["settings"])


@router.get("/runs/{run_id}/schedules", dependencies=VIEWER, responses=responses(ScheduleList, *RUN))
async def list_schedules(run_id: str, repository: RepositoryOf) -> Response:
    """The waiting schedules, the next one first, then the last ones that were carried out."""
    return json_response(schedules.list_schedules(await repository.get(run_id)))


@router.post(
    "/runs/{run_id}/schedules",
    status_code=201,
    responses=responses(Schedule, 201, *RUN, *BODY, 409, 422),
    openapi_extra=body(NewSchedule),
)
async def create_schedule(run_id: str, request: Request, sender: Operator, repository: RepositoryOf) -> Response:
    """Change the settings once the run reaches `from_step`; 422 if it has already."""
    created = await schedules.create(repository, run_id, await read_json(request, NewSchedule), sender.name)
    return json_response(created, 201, {"Location": f"/api/v1/runs/{run_id}/schedules"})


@router.delete(
    "/runs/{run_id}/schedules/{schedule_id}",
    status_code=204,
    dependencies=[Depends(requires(Role.OPERATOR))],
    responses=responses(None, 204, *RUN),
)
async def delete_schedule(run_id: str, schedule_id: str, repository: RepositoryOf) -> Response:
    """Delete a schedule that is still waiting."""
    await schedules.delete(repository, run_id, schedule_id)
    return Response(status_code=204)
