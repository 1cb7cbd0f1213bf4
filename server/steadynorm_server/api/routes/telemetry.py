"""What agents send: registration, telemetry, the end of the run."""

from fastapi import APIRouter, Request, Response

from steadynorm_contract.codec import decode_batch, decode_registration
from steadynorm_contract.telemetry import (
    MAX_REGISTRATION_BYTES,
    Registered,
    RunFinish,
    RunRegistration,
    TelemetryAck,
    TelemetryBatch,
)
from steadynorm_server.api import API
from steadynorm_server.api.dependencies import Agent, MetricsOf, RepositoryOf, TelemetryOf
from steadynorm_server.api.openapi.schema import ACCESS, RUN, takes
from steadynorm_server.api.requests import JSON, MESSAGE_PACK, json_response, location, read_body, read_json
from steadynorm_server.telemetry.registration import finish as finish_run
from steadynorm_server.telemetry.registration import register as register_run
from steadynorm_server.telemetry.validation import validate_size

router = APIRouter(prefix=API, tags=["agent"])

TELEMETRY = "/runs/{run_id}/telemetry"
"""Also served by `api/direct_telemetry`, which calls the same function."""


@router.post("/runs", status_code=201, **takes(RunRegistration, Registered, 201, 200, *ACCESS, 422))
async def register(request: Request, sender: Agent, repository: RepositoryOf) -> Response:
    """Register an agent. 201: a new run; 200: a known one."""
    data = await read_body(request, JSON, MAX_REGISTRATION_BYTES, compressed=True)
    validate_size(data)
    registration = decode_registration(data)
    registered, created = await register_run(repository, registration, sender)
    return json_response(
        registered, 201 if created else 200, {"Location": location(request, f"/runs/{registered.run_id}")}
    )


@router.post(TELEMETRY, **takes(TelemetryBatch, TelemetryAck, *RUN, 409, 422, media_type="application/msgpack"))
async def ingest_telemetry(
    run_id: str, request: Request, sender: Agent, telemetry: TelemetryOf, metrics: MetricsOf
) -> Response:
    """Store a batch. A batch that is sent again is stored once."""
    data = await read_body(request, MESSAGE_PACK)
    batch = decode_batch(data)
    acknowledgement = await telemetry.ingest(run_id, batch, sender)
    steps = len(batch.scalars.steps) if batch.scalars else 0
    rows = len(batch.rows.steps) * batch.rows.parameters if batch.rows else 0
    metrics.record_ingest(steps, rows, len(data))
    return json_response(acknowledgement)


@router.post("/runs/{run_id}/finish", status_code=204, **takes(RunFinish, None, 204, *RUN, 409))
async def finish(run_id: str, request: Request, sender: Agent, repository: RepositoryOf) -> Response:
    """Report that the run ended, and how."""
    await finish_run(repository, run_id, await read_json(request, RunFinish), sender)
    return Response(status_code=204)
