"""Runs for people: list, detail, series, parameters, events, audit, delete."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from starlette.requests import Request

from steadynorm_contract.audit import AuditList
from steadynorm_contract.events import EventList
from steadynorm_contract.runs import Health, RunDetail, RunList, RunState
from steadynorm_contract.series import HEATMAP_SIGNALS, Heatmap, ParameterList, SeriesResponse
from steadynorm_server.api.authorization import requires
from steadynorm_server.api.dependencies import QueriesOf, RepositoryOf
from steadynorm_server.api.openapi.schema import responses
from steadynorm_server.api.requests import json_response
from steadynorm_server.auth.tokens import Principal, Role
from steadynorm_server.errors import invalid
from steadynorm_server.middleware.request_log import request_id
from steadynorm_server.runs.pagination import MAX_RUNS, RunFilter, Sort

router = APIRouter(tags=["runs"])

MAX_CELLS = 200_000
"""Of one answer. A model of very many parameters gets fewer buckets instead."""

_MAX_STEP = 2**53 - 1


@router.get("/runs/{run_id}/heatmap", dependencies=[Depends(requires(Role.VIEWER))], responses=responses(Heatmap))
async def show_heatmap(
    run_id: str,
    reader: QueriesOf,
    signal: Annotated[str, Query(description="A column of the per-parameter rows, or target")] = "spike_ratio",
    first: Annotated[int | None, Query(alias="from", ge=0, le=_MAX_STEP, description="First step")] = None,
    last: Annotated[int | None, Query(alias="to", ge=0, le=_MAX_STEP, description="Last step, inclusive")] = None,
    points: Annotated[int, Query(ge=1, le=1000, description="At most so many buckets")] = 120,
) -> Response:
    """One signal of every parameter, in model order, over the steps: each bucket's worst value."""
    if signal not in HEATMAP_SIGNALS:
        known = ", ".join(HEATMAP_SIGNALS)
        raise invalid(
            "signal", f"must be one of {known}", f"signal {signal[:60]!r} does not exist. Use one of {known}."
        )
    if first is not None and last is not None and first > last:
        raise invalid("from", "must not be after `to`", f"from must not be after to: got {first} and {last}.")
    listed = [each.name for each in (await reader.parameters(run_id)).parameters]
    if not listed:
        return json_response(Heatmap(signal, [], [], [], [], []))
    names = [f"{signal}/{name}" for name in listed]
    found = (await reader.series(run_id, names, first, last, max(1, min(points, MAX_CELLS // len(names))))).series
    shared = found[names[0]]
    worst = [found[name].min if signal == "target" else found[name].max for name in names]
    return json_response(Heatmap(signal, listed, shared.step, shared.count, shared.time, worst))


viewer = [Depends(requires(Role.VIEWER))]

MAX_SERIES = 64
DEFAULT_SERIES = "loss,learning_rate,raw_norm,stabilized_norm,target_min,spike_ratio_max,spikes,nonfinite"
_log = logging.getLogger(__name__)
Entry = Annotated[
    str | None,
    Query(pattern=r"^[1-9][0-9]{0,17}-[0-9]{1,18}$", description="`next` of the page before, for older ones"),
]


@router.get("/runs", dependencies=viewer, responses=responses(RunList))
async def list_runs(
    reader: QueriesOf,
    state: Annotated[list[RunState], Query(description="Any of these")] = [],  # noqa: B006
    health: Annotated[list[Health], Query(description="Any of these")] = [],  # noqa: B006
    name: Annotated[str | None, Query(max_length=200, description="Pattern of the whole name: * and ?")] = None,
    tag: Annotated[list[str], Query(max_length=16, description="KEY or KEY=VALUE; all of them")] = [],  # noqa: B006
    sort: Sort = "-started",
    limit: Annotated[int | None, Query(ge=1, le=MAX_RUNS, description="Runs a page; without it all")] = None,
    cursor: Annotated[str | None, Query(max_length=500, description="`next` of the page before")] = None,
) -> Response:
    """Runs, newest first unless asked otherwise, all of them or in pages."""
    listing = RunFilter(tuple(state), tuple(health), name, tuple(tag), sort, limit, cursor)
    return json_response(await reader.runs(listing))


@router.get("/runs/{run_id}", dependencies=viewer, responses=responses(RunDetail))
async def show_run(run_id: str, reader: QueriesOf) -> Response:
    """One run: state, health, desired and applied settings, newest scalars."""
    return json_response(await reader.run(run_id))


@router.get("/runs/{run_id}/series", dependencies=viewer, responses=responses(SeriesResponse))
async def show_series(
    run_id: str,
    reader: QueriesOf,
    name: Annotated[list[str], Query(description="A series: raw_norm, or raw_norm/PARAMETER; may be repeated")] = [],  # noqa: B006
    names: Annotated[list[str], Query(description="The same, comma-separated: of names without commas")] = [],  # noqa: B006
    first: Annotated[int | None, Query(alias="from", ge=0, le=_MAX_STEP, description="First step")] = None,
    last: Annotated[int | None, Query(alias="to", ge=0, le=_MAX_STEP, description="Last step, inclusive")] = None,
    points: Annotated[int, Query(ge=1, le=10_000, description="At most so many buckets a series")] = 1000,
) -> Response:
    """Series as min/mean/max buckets of equal width: no spike is lost to downsampling."""
    listed = names or ([] if name else [DEFAULT_SERIES])
    wanted = [*name, *(each for part in listed for each in part.split(",") if each)]
    if not 1 <= len(wanted) <= MAX_SERIES:
        raise invalid("names", f"must be 1 to {MAX_SERIES} series", f"names: {len(wanted)} series were asked for.")
    if first is not None and last is not None and first > last:
        raise invalid("from", "must not be after `to`", f"from must not be after to: got {first} and {last}.")
    return json_response(await reader.series(run_id, wanted, first, last, points))


@router.get("/runs/{run_id}/parameters", dependencies=viewer, responses=responses(ParameterList))
async def show_parameters(
    run_id: str,
    reader: QueriesOf,
    limit: Annotated[int | None, Query(ge=1, le=10_000, description="Parameters a page; without it all")] = None,
    cursor: Annotated[
        str | None, Query(pattern=r"^[1-9][0-9]{0,8}$", description="`next` of the page before, for those after it")
    ] = None,
) -> Response:
    """The parameter table with each one's newest numbers, whole or in pages."""
    return json_response(await reader.parameters(run_id, limit, cursor))


@router.get("/runs/{run_id}/events", dependencies=viewer, responses=responses(EventList))
async def show_events(
    run_id: str, reader: QueriesOf, limit: Annotated[int, Query(ge=1, le=2000)] = 200, cursor: Entry = None
) -> Response:
    """Spikes, non-finite gradients, throttling, stalls and the like, newest first."""
    return json_response(await reader.events(run_id, limit, cursor))


@router.get("/runs/{run_id}/audit", dependencies=viewer, responses=responses(AuditList))
async def show_audit(
    run_id: str, reader: QueriesOf, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000, cursor: Entry = None
) -> Response:
    """Who changed which settings, when, why, and what came of it, newest first."""
    return json_response(await reader.audit(run_id, limit, cursor))


@router.delete("/runs/{run_id}", status_code=204, responses=responses(None, 204))
async def delete_run(
    run_id: str,
    request: Request,
    sender: Annotated[Principal, Depends(requires(Role.OPERATOR))],
    repository: RepositoryOf,
) -> Response:
    """Delete a run with its data. The server's log keeps who did it: the run's own audit goes with it."""
    await repository.delete(run_id)
    _log.warning("run %s was deleted by %r", run_id, sender.name, extra={"request_id": request_id(request.scope)})
    return Response(status_code=204)
