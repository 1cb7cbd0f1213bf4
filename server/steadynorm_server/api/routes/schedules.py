"""Settings changes that are made once a run reaches a step."""

from fastapi import APIRouter, Request, Response

from steadynorm_contract.schedules import NewSchedule, Schedule, ScheduleList
from steadynorm_server.api import API
from steadynorm_server.api.dependencies import VIEWER, Operator, RepositoryOf
from steadynorm_server.api.openapi.schema import RUN, responses, takes
from steadynorm_server.api.requests import json_response, location, read_json
from steadynorm_server.automation import schedules

router = APIRouter(prefix=API, tags=["settings"])


@router.get("/runs/{run_id}/schedules", dependencies=VIEWER, responses=responses(ScheduleList, *RUN, 422))
async def list_schedules(run_id: str, repository: RepositoryOf) -> Response:
    """The waiting schedules, the next one first, then the last ones that were carried out."""
    return json_response(schedules.list_schedules(await repository.get(run_id)))


@router.post("/runs/{run_id}/schedules", status_code=201, **takes(NewSchedule, Schedule, 201, *RUN, 409, 422))
async def create_schedule(run_id: str, request: Request, sender: Operator, repository: RepositoryOf) -> Response:
    """Change the settings once the run reaches `from_step`; 422 if it has already."""
    created = await schedules.create(repository, run_id, await read_json(request, NewSchedule), sender.name)
    return json_response(created, 201, {"Location": location(request, f"/runs/{run_id}/schedules")})


@router.delete("/runs/{run_id}/schedules/{schedule_id}", status_code=204, responses=responses(None, 204, *RUN, 422))
async def delete_schedule(run_id: str, schedule_id: str, sender: Operator, repository: RepositoryOf) -> Response:
    """Delete a schedule that is still waiting."""
    await schedules.delete(repository, run_id, schedule_id, sender.name)
    return Response(status_code=204)
