"""A run as a whole: rename, archive, delete, restore."""

import logging
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from steadynorm_contract.lifecycle import MAX_GRACE_S, Restoration, RunUpdate
from steadynorm_contract.runs import RunDetail
from steadynorm_server import audit_log
from steadynorm_server.api import API
from steadynorm_server.api.dependencies import Operator, QueriesOf, RepositoryOf
from steadynorm_server.api.openapi.schema import RUN, responses, takes
from steadynorm_server.api.requests import json_response, read_json
from steadynorm_server.middleware.request_log import request_id
from steadynorm_server.retention import lifecycle

router = APIRouter(prefix=API, tags=["runs"])

_log = logging.getLogger(__name__)


@router.patch("/runs/{run_id}", **takes(RunUpdate, RunDetail, *RUN, 409, 422))
async def update_run(
    run_id: str, request: Request, sender: Operator, repository: RepositoryOf, queries: QueriesOf
) -> Response:
    """Rename a run, archive it (it is hidden and kept), or list it again.

    A live run cannot be archived. Tokens that are bound to names go by the name under which the agent registered.
    """
    await lifecycle.update(repository, run_id, await read_json(request, RunUpdate), sender.name)
    return json_response(await queries.run(run_id))


@router.delete("/runs/{run_id}", status_code=204, responses=responses(None, 204, *RUN, 409, 422))
async def delete_run(
    run_id: str,
    request: Request,
    sender: Operator,
    repository: RepositoryOf,
    grace: Annotated[
        float, Query(ge=0, le=MAX_GRACE_S, description="Seconds within which it can be restored; 0: removed at once")
    ] = 0.0,
    reason: Annotated[str, Query(max_length=500, description="With `grace`: stored with the run")] = "",
) -> Response:
    """Delete a run with its data and its audit log. The server's log says who did it.

    With `grace` it is hidden now and removed later, and a live run is refused.
    """
    if grace:
        await lifecycle.delete(repository, run_id, grace, sender.name, reason)
    else:
        run = await repository.get(run_id)
        heads = run.audit_heads()
        line = partial(audit_log.record, "removed", run_id, sender.name, name=run.name, reason=reason, **heads)
        await repository.delete(run_id, line)
        _log.warning("run %s was deleted by %r", run_id, sender.name, extra={"request_id": request_id(request.scope)})
    return Response(status_code=204)


@router.post("/runs/{run_id}/restore", **takes(Restoration, RunDetail, *RUN, 422))
async def restore_run(
    run_id: str, request: Request, sender: Operator, repository: RepositoryOf, queries: QueriesOf
) -> Response:
    """Bring back a run that was deleted with `grace` and is not removed yet."""
    requested = await read_json(request, Restoration)
    await lifecycle.restore(repository, run_id, sender.name, requested.reason)
    return json_response(await queries.run(run_id))
