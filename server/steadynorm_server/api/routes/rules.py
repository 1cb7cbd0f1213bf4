"""Watch rules: a run's scalars change its settings, within limits."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from starlette.requests import Request

from steadynorm_contract.watch_rules import RuleList, RuleSet
from steadynorm_server.api.authorization import requires
from steadynorm_server.api.dependencies import RepositoryOf
from steadynorm_server.api.openapi.schema import body, responses
from steadynorm_server.api.requests import JSON, MAX_SMALL_BYTES, json_response, read_body
from steadynorm_server.auth.tokens import Principal, Role
from steadynorm_server.automation import rules

router = APIRouter(tags=["settings"])


@router.get("/runs/{run_id}/rules", dependencies=[Depends(requires(Role.VIEWER))], responses=responses(RuleList))
async def list_rules(run_id: str, repository: RepositoryOf) -> Response:
    """The run's watch rules, and where each stands: counts, actions left, locks."""
    return json_response(rules.listed(await repository.find(run_id), repository.clock()))


@router.put("/runs/{run_id}/rules", responses=responses(RuleList), openapi_extra=body(RuleSet))
async def replace_rules(
    run_id: str,
    request: Request,
    sender: Annotated[Principal, Depends(requires(Role.OPERATOR))],
    repository: RepositoryOf,
) -> Response:
    """Give the run these rules and no others. Those that are as they were keep their counts and their budgets.

    No rules at all is a list too: it takes them from the run, also from one that has ended.
    """
    wanted = rules.decode(await read_body(request, JSON, MAX_SMALL_BYTES))
    return json_response(await rules.replace(repository, run_id, wanted, sender.name))
