"""Runs: list, detail, series, heat map, parameters, events, audit."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from steadynorm_contract.audit import AuditList
from steadynorm_contract.configuration import RunConfiguration
from steadynorm_contract.events import EventList
from steadynorm_contract.lifecycle import Visibility
from steadynorm_contract.runs import Health, RunDetail, RunList, RunState
from steadynorm_contract.series import HEATMAP_SIGNALS, Heatmap, ParameterList, SeriesResponse
from steadynorm_server.api import API
from steadynorm_server.api.dependencies import VIEWER, QueriesOf, RepositoryOf, Viewer
from steadynorm_server.api.openapi.schema import ACCESS, RUN, responses
from steadynorm_server.api.requests import json_response
from steadynorm_server.errors import invalid
from steadynorm_server.runs.pagination import MAX_RUNS, RunFilter, Sort

router = APIRouter(prefix=API, tags=["runs"])

_MAX_STEP = 2**53 - 1
FirstStep = Annotated[int | None, Query(alias="from", ge=0, le=_MAX_STEP, description="First step")]
LastStep = Annotated[int | None, Query(alias="to", ge=0, le=_MAX_STEP, description="Last step, inclusive")]


@router.get("/runs/{run_id}/heatmap", dependencies=VIEWER, responses=responses(Heatmap, *RUN, 422))
async def show_heatmap(
    run_id: str,
    queries: QueriesOf,
    signal: Annotated[str, Query(description="A column of the per-parameter rows, or target")] = "spike_ratio",
    first: FirstStep = None,
    last: LastStep = None,
    points: Annotated[int, Query(ge=1, le=1000, description="Most buckets")] = 120,
) -> Response:
    """One signal of every parameter, in model order, over the steps: each bucket's worst value."""
    if signal not in HEATMAP_SIGNALS:
        known = ", ".join(HEATMAP_SIGNALS)
        raise invalid(
            "signal", f"must be one of {known}", f"signal {signal[:60]!r} does not exist. Use one of {known}."
        )
    _check_range(first, last)
    return json_response(await queries.heatmap(run_id, signal, first, last, points))


MAX_SERIES = 64
DEFAULT_SERIES = "loss,learning_rate,raw_norm,stabilized_norm,target_min,spike_ratio_max,spikes,nonfinite"
Entry = Annotated[
    str | None,
    Query(pattern=r"^[1-9][0-9]{0,17}-[0-9]{1,18}$", description="`next` of the previous page, for older ones"),
]


@router.get("/runs", responses=responses(RunList, *ACCESS, 422))
async def list_runs(
    sender: Viewer,
    queries: QueriesOf,
    state: Annotated[list[RunState], Query(description="Any of these")] = [],  # noqa: B006
    health: Annotated[list[Health], Query(description="Any of these")] = [],  # noqa: B006
    name: Annotated[str | None, Query(max_length=200, description="Pattern of the whole name: * and ?")] = None,
    tag: Annotated[list[str], Query(max_length=16, description="KEY or KEY=VALUE; all of them")] = [],  # noqa: B006
    visibility: Annotated[list[Visibility], Query(description="Any of these; none: listed ones")] = [],  # noqa: B006
    sort: Sort = "-started",
    limit: Annotated[int | None, Query(ge=1, le=MAX_RUNS, description="Runs per page; else all")] = None,
    cursor: Annotated[str | None, Query(max_length=500, description="`next` of the previous page")] = None,
) -> Response:
    """Runs, newest first unless `sort` says otherwise, all at once or in pages."""
    listing = RunFilter(
        tuple(state), tuple(health), name, tuple(tag), tuple(visibility), sort, limit, cursor, sender.runs
    )
    return json_response(await queries.runs(listing))


@router.get("/runs/{run_id}", dependencies=VIEWER, responses=responses(RunDetail, *RUN, 422))
async def show_run(run_id: str, queries: QueriesOf, repository: RepositoryOf) -> Response:
    """One run: state, health, desired and applied settings, newest scalars."""
    found = await queries.run(run_id)
    await repository.audience.look(run_id)
    return json_response(found)


@router.get("/runs/{run_id}/configuration", dependencies=VIEWER, responses=responses(RunConfiguration, *RUN, 422))
async def show_configuration(run_id: str, queries: QueriesOf) -> Response:
    """What the run was started with: the user's configuration, and facts that its process found by itself."""
    return json_response(await queries.configuration(run_id))


@router.get("/runs/{run_id}/series", dependencies=VIEWER, responses=responses(SeriesResponse, *RUN, 422))
async def show_series(
    run_id: str,
    queries: QueriesOf,
    repository: RepositoryOf,
    name: Annotated[list[str], Query(description="A series: raw_norm, or raw_norm/PARAMETER; may be repeated")] = [],  # noqa: B006
    names: Annotated[list[str], Query(description="The same, comma-separated, for names without commas")] = [],  # noqa: B006
    first: FirstStep = None,
    last: LastStep = None,
    points: Annotated[int, Query(ge=1, le=10_000, description="Most buckets of a series")] = 1000,
) -> Response:
    """Series in min/mean/max buckets of equal width: no spike is lost to downsampling."""
    listed = names or ([] if name else [DEFAULT_SERIES])
    requested = [*name, *(each for part in listed for each in part.split(",") if each)]
    if not 1 <= len(requested) <= MAX_SERIES:
        raise invalid(
            "names",
            f"must be 1 to {MAX_SERIES} series",
            f"names must be 1 to {MAX_SERIES} series: got {len(requested)}.",
        )
    _check_range(first, last)
    found = await queries.series(run_id, requested, first, last, points)
    await repository.audience.look(run_id)
    return json_response(found)


@router.get("/runs/{run_id}/parameters", dependencies=VIEWER, responses=responses(ParameterList, *RUN, 422))
async def show_parameters(
    run_id: str,
    queries: QueriesOf,
    limit: Annotated[int | None, Query(ge=1, le=10_000, description="Parameters per page; else all")] = None,
    cursor: Annotated[
        str | None, Query(pattern=r"^[1-9][0-9]{0,8}$", description="`next` of the previous page")
    ] = None,
) -> Response:
    """The parameter table with the newest values of each parameter, all at once or in pages."""
    return json_response(await queries.parameters(run_id, limit, cursor))


@router.get("/runs/{run_id}/events", dependencies=VIEWER, responses=responses(EventList, *RUN, 422))
async def show_events(
    run_id: str, queries: QueriesOf, limit: Annotated[int, Query(ge=1, le=2000)] = 200, cursor: Entry = None
) -> Response:
    """Spikes, non-finite gradients, throttling, stalls and other events, newest first."""
    return json_response(await queries.events(run_id, limit, cursor))


@router.get("/runs/{run_id}/audit", dependencies=VIEWER, responses=responses(AuditList, *RUN, 422))
async def show_audit(
    run_id: str,
    queries: QueriesOf,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    cursor: Entry = None,
    verify: Annotated[bool, Query(description="Verify the hash chain of these entries; not with a cursor")] = False,
) -> Response:
    """Who changed which settings, when, why, and with which result, newest first; `chain` is null unless verified."""
    return json_response(await queries.audit(run_id, limit, cursor, verify))


def _check_range(first: int | None, last: int | None) -> None:
    if first is not None and last is not None and first > last:
        raise invalid("from", "must not be after `to`", f"from must not be after to: got {first} and {last}.")
