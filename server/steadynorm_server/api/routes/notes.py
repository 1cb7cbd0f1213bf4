"""Notes on runs, steps and incidents."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from steadynorm_contract.notes import NewNote, Note, NoteAction, NoteList
from steadynorm_server.api import API
from steadynorm_server.api.authorization import requires
from steadynorm_server.api.dependencies import VIEWER, RepositoryOf
from steadynorm_server.api.openapi.schema import RUN, responses, takes
from steadynorm_server.api.requests import json_response, location, read_json
from steadynorm_server.api.routes.runs import Entry
from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.errors import ProblemError
from steadynorm_server.runs import notes

router = APIRouter(prefix=API, tags=["runs"])


@router.get("/runs/{run_id}/notes", dependencies=VIEWER, responses=responses(NoteList, *RUN, 422))
async def list_notes(
    run_id: str, repository: RepositoryOf, limit: Annotated[int, Query(ge=1, le=2000)] = 200, cursor: Entry = None
) -> Response:
    """Notes, newest first, and the incidents that somebody took or closed."""
    return json_response(await notes.read(repository, run_id, limit, cursor))


@router.post("/runs/{run_id}/notes", status_code=201, **takes(NewNote, Note, 201, *RUN, 409, 422))
async def add_note(
    run_id: str,
    request: Request,
    sender: Annotated[Principal, Depends(requires(Role.AGENT, Role.OPERATOR))],
    repository: RepositoryOf,
) -> Response:
    """Write a note on the run, on a step or on an incident; or take, hand over or close an incident.

    An agent's token may write notes on its runs, and nothing else.
    """
    sender.require_run((await repository.get(run_id)).name)
    new = await read_json(request, NewNote)
    by_agent = Role.OPERATOR not in sender.roles
    if by_agent and new.action is not NoteAction.NOTE:
        raise ProblemError(
            403, f"action {new.action.value} requires the role operator: token {sender.name!r} has agent."
        )
    made = await notes.add(repository, run_id, new, sender.name, by_agent)
    return json_response(made, 201, {"Location": location(request, f"/runs/{run_id}/notes")})
