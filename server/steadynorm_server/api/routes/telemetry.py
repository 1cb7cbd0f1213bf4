"""What agents send: register, telemetry, finish."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from starlette.requests import Request

from steadynorm_contract.codec import decode_batch, decode_json, decode_registration
from steadynorm_contract.telemetry import Registered, RunFinish, RunRegistration, TelemetryAck, TelemetryBatch
from steadynorm_server.api.authorization import requires
from steadynorm_server.api.dependencies import MetersOf, RepositoryOf
from steadynorm_server.api.openapi.schema import body, responses
from steadynorm_server.api.requests import JSON, MAX_SMALL_BYTES, MESSAGE_PACK, json_response, read_body
from steadynorm_server.auth.tokens import Principal, Role
from steadynorm_server.telemetry.registration import finish as finish_run
from steadynorm_server.telemetry.registration import register as register_run
from steadynorm_server.telemetry.validation import check_size

router = APIRouter(tags=["agent"])
Agent = Annotated[Principal, Depends(requires(Role.AGENT))]


@router.post("/runs", responses=responses(Registered, 201, 200), openapi_extra=body(RunRegistration), status_code=201)
async def register(request: Request, sender: Agent, repository: RepositoryOf) -> Response:
    """Register an agent. 201 for a new run, 200 for a known one."""
    data = await read_body(request, JSON)
    check_size(data)
    registration = decode_registration(data)
    registered, created = await register_run(repository, registration, sender)
    return json_response(registered, 201 if created else 200, {"Location": f"/api/v1/runs/{registered.run_id}"})


@router.post(
    "/runs/{run_id}/telemetry",
    responses=responses(TelemetryAck),
    openapi_extra=body(TelemetryBatch, "application/msgpack"),
)
async def take_telemetry(
    run_id: str, request: Request, sender: Agent, repository: RepositoryOf, meters: MetersOf
) -> Response:
    """Store a batch, once however often it comes."""
    data = await read_body(request, MESSAGE_PACK)
    batch = decode_batch(data)
    answer = await repository.ingest(run_id, batch, sender)
    steps = len(batch.scalars.steps) if batch.scalars else 0
    rows = len(batch.rows.steps) * batch.rows.parameters if batch.rows else 0
    meters.ingested(steps, rows, len(data))
    return json_response(answer)


@router.post("/runs/{run_id}/finish", status_code=204, responses=responses(None, 204), openapi_extra=body(RunFinish))
async def finish(run_id: str, request: Request, sender: Agent, repository: RepositoryOf) -> Response:
    """Say that the run ended, and how."""
    await finish_run(
        repository, run_id, decode_json(await read_body(request, JSON, MAX_SMALL_BYTES), RunFinish), sender
    )
    return Response(status_code=204)
