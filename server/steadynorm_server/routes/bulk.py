"""One change to many runs, previewed first."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from starlette.requests import Request

from steadynorm_contract.bulk import Bulk, BulkAnswer
from steadynorm_contract.codec import decode_json
from steadynorm_server.auth import Principal, Role, requires
from steadynorm_server.body import JSON, json_answer, read_body
from steadynorm_server.bulk import change_many
from steadynorm_server.dependencies import StoreOf
from steadynorm_server.schema import answers, body

router = APIRouter(tags=["settings"])

_MAX_BYTES = 512 * 1024  # a thousand run ids, with their revisions


@router.post("/settings/bulk", responses=answers(BulkAnswer), openapi_extra=body(Bulk))
async def change_settings_of_many(
    request: Request, sender: Annotated[Principal, Depends(requires(Role.OPERATOR))], store: StoreOf
) -> Response:
    """Show what a change would do to the selected runs; with `dry_run` false and the shown `revisions`, make it.

    Each run is changed only if nobody was faster, and has an entry of its own in its audit.
    """
    wanted = decode_json(await read_body(request, JSON, _MAX_BYTES), Bulk)
    return json_answer(await change_many(store, wanted, sender.name))
