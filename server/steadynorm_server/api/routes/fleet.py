"""The data of the runs overview: all runs with sparklines and last changes in one response."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from steadynorm_contract.fleet import MAX_COLUMNS, FleetResponse, FleetSort
from steadynorm_contract.lifecycle import Visibility
from steadynorm_contract.runs import Health, RunState
from steadynorm_server.api import API
from steadynorm_server.api.dependencies import FleetOf, Viewer
from steadynorm_server.api.openapi.schema import ACCESS, responses
from steadynorm_server.api.requests import json_response
from steadynorm_server.runs.pagination import MAX_RUNS, RunFilter

router = APIRouter(prefix=API, tags=["runs"])


@router.get("/fleet", responses=responses(FleetResponse, *ACCESS, 422))
async def show_fleet(
    sender: Viewer,
    fleet: FleetOf,
    state: Annotated[list[RunState], Query(description="Any of these")] = [],  # noqa: B006
    health: Annotated[list[Health], Query(description="Any of these")] = [],  # noqa: B006
    name: Annotated[str | None, Query(max_length=200, description="Pattern of the whole name: * and ?")] = None,
    tag: Annotated[list[str], Query(max_length=16, description="KEY or KEY=VALUE; all of them")] = [],  # noqa: B006
    search: Annotated[
        str, Query(max_length=500, description="At most 16 words; each in the name, the id or a tag")
    ] = "",
    visibility: Annotated[list[Visibility], Query(description="Any of these; none: listed ones")] = [],  # noqa: B006
    current: Annotated[bool, Query(description="Only runs that are live, or failed within 24 hours")] = False,
    group: Annotated[str, Query(max_length=100, description="Key of the tag by which runs are grouped")] = "",
    scalar: Annotated[
        list[str], Query(max_length=MAX_COLUMNS, description="Names of logged scalars whose newest values rows have")
    ] = [],  # noqa: B006
    sort: FleetSort = FleetSort.SEVERITY,
    limit: Annotated[int, Query(ge=1, le=MAX_RUNS, description="Most runs returned")] = 200,
) -> Response:
    """All runs, the most severe first, each with sparklines of its loss and norm and with its last change."""
    listing = RunFilter(tuple(state), tuple(health), name, tuple(tag), tuple(visibility), visible=sender.runs)
    found = await fleet.answer(listing, sort, search, limit, current=current, group=group, scalars=scalar)
    return json_response(found)
