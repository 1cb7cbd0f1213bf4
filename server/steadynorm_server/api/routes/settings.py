"""Desired settings: agents poll them, operators change them."""

import json
import re
from math import isfinite
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request, Response

from steadynorm_contract.bulk import Bulk, BulkResponse
from steadynorm_contract.changes import Change
from steadynorm_contract.codec import MalformedMessage, decode_json
from steadynorm_contract.settings import Settings, merge
from steadynorm_contract.telemetry import Desired
from steadynorm_server.api import API
from steadynorm_server.api.authorization import requires
from steadynorm_server.api.dependencies import Operator, RepositoryOf, StoppingOf
from steadynorm_server.api.openapi.schema import ACCESS, RUN, responses, takes
from steadynorm_server.api.requests import JSON, MAX_SMALL_BYTES, json_response, read_body, read_json
from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.errors import ProblemError
from steadynorm_server.settings import service
from steadynorm_server.settings.bulk import change_bulk

router = APIRouter(prefix=API, tags=["settings"])

MAX_WAIT_S = 60
_MAX_BULK_BYTES = 512 * 1024  # a thousand run ids, with their revisions
_ETAG = re.compile(r'"([0-9]{1,16})"|([0-9]{1,16})')


@router.post("/settings/bulk", **takes(Bulk, BulkResponse, *ACCESS, 422, 428))
async def bulk_change_settings(request: Request, sender: Operator, repository: RepositoryOf) -> Response:
    """Preview a change of all selected runs; with `dry_run` false and the preview's `revisions`, make it.

    A run whose settings were changed since the preview is not changed. Every change is in its run's audit log.
    """
    requested = await read_json(request, Bulk, _MAX_BULK_BYTES)
    return json_response(await change_bulk(repository, requested, sender))


@router.get("/runs/{run_id}/settings", responses=responses(Desired, *RUN, 422))
async def show_settings(
    run_id: str,
    sender: Annotated[Principal, Depends(requires(Role.AGENT, Role.VIEWER))],
    repository: RepositoryOf,
    stopping: StoppingOf,
    after_revision: Annotated[int | None, Query(ge=0, le=2**53 - 1)] = None,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Seconds", allow_inf_nan=False)] = 0.0,
) -> Response:
    """The desired settings. With after_revision and wait: once there is a newer revision, or after the wait."""
    return _with_etag(await service.wait_for_settings(repository, run_id, sender, after_revision, wait, stopping))


@router.patch("/runs/{run_id}/settings", **takes(Change, Desired, *RUN, 409, 412, 422, 428))
async def change_settings(
    run_id: str,
    request: Request,
    sender: Operator,
    repository: RepositoryOf,
    if_match: Annotated[str | None, Header(description='The revision to change, as in "3"')] = None,
) -> Response:
    """Change the settings of a run if If-Match names their newest revision."""
    data = await read_body(request, JSON, MAX_SMALL_BYTES)
    run = await repository.get(run_id)  # an unknown run is reported first, whatever else is wrong
    revision = revision_of(if_match)
    return _with_etag(await service.change(repository, run, _decode_change(data), revision, sender.name))


def _with_etag(found: Desired) -> Response:
    return json_response(found, headers={"ETag": f'"{found.revision}"'})


def revision_of(if_match: str | None) -> int:
    """The revision that If-Match names. Raises 400 and 428 problems."""
    if if_match is None:
        raise ProblemError(
            428, 'If-Match with the revision is required, as in `If-Match: "3"`. GET settings has the newest.'
        )
    # `*` and weak tags are rejected too: a change is made to one known revision.
    if (match := _ETAG.fullmatch(if_match.strip())) is None:
        raise ProblemError(400, f'If-Match must be one revision, as in `If-Match: "3"`: got {if_match[:60]!r}.')
    return int(match[1] or match[2])


def _decode_change(data: bytes) -> Change:
    try:
        return decode_json(data, Change)
    except MalformedMessage:
        # Many clients write NaN and Infinity, which are not JSON. If nothing else is wrong, the setting's rule is the
        # better message; no setting may be NaN or infinite, so nothing of this is ever accepted.
        try:
            given = msgspec.convert(json.loads(data), Change).settings
        except (ValueError, RecursionError, msgspec.ValidationError):
            given = {}
        merge(
            Settings(), {name: each for name, each in given.items() if isinstance(each, float) and not isfinite(each)}
        )
        raise
