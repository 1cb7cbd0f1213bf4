"""The token that a request carries, so that a client can show what it may do."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from steadynorm_contract.tokens import TokenInfo
from steadynorm_server.api.authorization import requires
from steadynorm_server.api.openapi.schema import responses
from steadynorm_server.api.requests import json_response
from steadynorm_server.auth.principals import Principal, Role

router = APIRouter(tags=["tokens"])


@router.get("/me", responses=responses(TokenInfo, 401, 429))
async def show_me(sender: Annotated[Principal, Depends(requires(*Role))]) -> Response:
    """The token's name, its roles, and the runs that it is bound to."""
    runs = None if sender.runs is None else list(sender.runs)
    return json_response(TokenInfo(sender.name, sorted(sender.roles), runs))
