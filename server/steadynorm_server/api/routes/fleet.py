"""The data of the runs overview: all runs with sparklines and last changes in one response."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from steadynorm_contract.fleet import FleetResponse, FleetSort
from steadynorm_contract.runs import Health, RunState
from steadynorm_server.api.dependencies import VIEWER
from steadynorm_server.api.openapi.schema import ACCESS, responses
from steadynorm_server.api.requests import json_response
from steadynorm_server.runs.fleet import Fleet
from steadynorm_server.runs.pagination import MAX_RUNS, RunFilter

router = APIRouter(tags=["runs"])


async def _fleet(request: Request) -> Fleet:
    fleet: Fleet = request.app.state.fleet
    return fleet


@router.get("/fleet", dependencies=VIEWER, responses=responses(FleetResponse, *ACCESS, 422))
async def show_fleet(
    fleet: Annotated[Fleet, Depends(_fleet)],
    state: Annotated[list[RunState], Query(description="Any of these")] = [],  # noqa: B006
    health: Annotated[list[Health], Query(description="Any of these")] = [],  # noqa: B006
    name: Annotated[str | None, Query(max_length=200, description="Pattern of the whole name: * and ?")] = None,
    tag: Annotated[list[str], Query(max_length=16, description="KEY or KEY=VALUE; all of them")] = [],  # noqa: B006
    search: Annotated[
        str, Query(max_length=500, description="At most 16 words; each in the name, the id or a tag")
    ] = "",
    sort: FleetSort = FleetSort.SEVERITY,
    limit: Annotated[int, Query(ge=1, le=MAX_RUNS, description="Most runs returned")] = 200,
) -> Response:
    """All runs, the most severe first, each with sparklines of its loss and norm and with its last change."""
    listing = RunFilter(tuple(state), tuple(health), name, tuple(tag))
    return json_response(await fleet.answer(listing, sort, search, limit))
