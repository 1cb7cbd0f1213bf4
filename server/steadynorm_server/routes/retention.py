"""What a run may take in the store and how long it is kept."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from starlette.requests import Request

from steadynorm_contract.codec import decode_json
from steadynorm_contract.retention import Retention, RetentionSet
from steadynorm_server import retention
from steadynorm_server.auth import Principal, Role, requires
from steadynorm_server.body import JSON, MAX_SMALL_BYTES, json_answer, read_body
from steadynorm_server.dependencies import LimitsOf, StoreOf
from steadynorm_server.schema import answers, body

router = APIRouter(tags=["runs"])


@router.get("/runs/{run_id}/retention", dependencies=[Depends(requires(Role.VIEWER))], responses=answers(Retention))
async def show_retention(run_id: str, store: StoreOf, limits: LimitsOf) -> Response:
    """What was set for the run, what holds for it, when it will be removed, and who changed it."""
    return json_answer(retention.shown(await store.find(run_id), limits))


@router.put("/runs/{run_id}/retention", responses=answers(Retention), openapi_extra=body(RetentionSet))
async def replace_retention(
    run_id: str,
    request: Request,
    sender: Annotated[Principal, Depends(requires(Role.OPERATOR))],
    store: StoreOf,
    limits: LimitsOf,
) -> Response:
    """Set what the run may take and how long it is kept; null is the server's default. Ended runs take it, too."""
    wanted = decode_json(await read_body(request, JSON, MAX_SMALL_BYTES), RetentionSet)
    return json_answer(await retention.replace(store, run_id, wanted, limits, sender.name))
