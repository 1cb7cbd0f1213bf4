"""The token that a request carries, so that a client can show what it may do."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Response

from steadynorm_contract.tokens import TokenInfo
from steadynorm_server.api import API
from steadynorm_server.api.authorization import requires
from steadynorm_server.api.dependencies import RepositoryOf
from steadynorm_server.api.openapi.schema import responses
from steadynorm_server.api.requests import json_response
from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.telemetry.quotas import usage

router = APIRouter(prefix=API, tags=["tokens"])


@router.get("/me", responses=responses(TokenInfo, 401, 429))
async def show_me(sender: Annotated[Principal, Depends(requires(*Role))], repository: RepositoryOf) -> Response:
    """The token's name, its roles, the runs that it is bound to, and its quota, if it has one."""
    runs = None if sender.runs is None else list(sender.runs)
    quota = await usage(repository, sender)
    return json_response(TokenInfo(sender.name, sorted(sender.roles), runs, quota or msgspec.UNSET))
