"""Watch rules: conditions on a run's scalars that change its settings, within limits."""

from fastapi import APIRouter, Request, Response

from steadynorm_contract.watch_rules import RuleList, RuleSet
from steadynorm_server.api import API
from steadynorm_server.api.dependencies import VIEWER, Operator, RepositoryOf
from steadynorm_server.api.openapi.schema import RUN, responses, takes
from steadynorm_server.api.requests import JSON, MAX_SMALL_BYTES, json_response, read_body
from steadynorm_server.automation import rules

router = APIRouter(prefix=API, tags=["settings"])


@router.get("/runs/{run_id}/rules", dependencies=VIEWER, responses=responses(RuleList, *RUN, 422))
async def list_rules(run_id: str, repository: RepositoryOf) -> Response:
    """The run's watch rules with their progress: counts, actions left, cooldowns."""
    return json_response(rules.list_rules(await repository.get(run_id), repository.clock()))


@router.put("/runs/{run_id}/rules", **takes(RuleSet, RuleList, *RUN, 409, 412, 422))
async def replace_rules(run_id: str, request: Request, sender: Operator, repository: RepositoryOf) -> Response:
    """Replace the run's rules by these. Unchanged ones keep their counts and their remaining actions.

    An empty list removes all rules, also from a run that has ended.
    """
    requested = rules.decode(await read_body(request, JSON, MAX_SMALL_BYTES))
    return json_response(await rules.replace(repository, run_id, requested, sender.name))
