"""Proposed changes: by an agent's token or a person's, decided by an operator."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response

from steadynorm_contract.proposals import Decision, NewProposal, Proposal, ProposalList
from steadynorm_server.api import API
from steadynorm_server.api.authorization import requires
from steadynorm_server.api.dependencies import VIEWER, Operator, RepositoryOf
from steadynorm_server.api.openapi.schema import RUN, responses, takes
from steadynorm_server.api.requests import json_response, location, read_json
from steadynorm_server.api.routes.settings import revision_of
from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.settings import proposals

router = APIRouter(prefix=API, tags=["settings"])


@router.get("/runs/{run_id}/proposals", dependencies=VIEWER, responses=responses(ProposalList, *RUN, 422))
async def list_proposals(run_id: str, repository: RepositoryOf) -> Response:
    """Open proposals, the newest first, then those that were decided last."""
    return json_response(proposals.list_proposals(await repository.get(run_id)))


@router.post("/runs/{run_id}/proposals", status_code=201, **takes(NewProposal, Proposal, 201, *RUN, 409, 412, 422))
async def propose(
    run_id: str,
    request: Request,
    sender: Annotated[Principal, Depends(requires(Role.PROPOSER, Role.OPERATOR))],
    repository: RepositoryOf,
) -> Response:
    """Propose a change of the settings. It is made at once where the token's budget has room for it."""
    made = await proposals.propose(repository, run_id, await read_json(request, NewProposal), sender)
    return json_response(made, 201, {"Location": location(request, f"/runs/{run_id}/proposals")})


@router.post("/runs/{run_id}/proposals/{proposal_id}", **takes(Decision, Proposal, *RUN, 409, 412, 422, 428))
async def decide_proposal(
    run_id: str,
    proposal_id: str,
    request: Request,
    sender: Operator,
    repository: RepositoryOf,
    if_match: Annotated[str | None, Header(description='The revision that was looked at, as in "3"')] = None,
) -> Response:
    """Approve an open proposal, if it is based on the newest revision, which If-Match names; or refuse it."""
    decision = await read_json(request, Decision)
    revision = revision_of(if_match)
    return json_response(await proposals.decide(repository, run_id, proposal_id, decision, revision, sender))
