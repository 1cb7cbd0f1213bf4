"""The download of a run's history as Parquet, for notebooks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from typing import Annotated, BinaryIO, cast

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Response
from starlette.requests import Request

from steadynorm_server.api.authorization import requires
from steadynorm_server.api.dependencies import RepositoryOf
from steadynorm_server.api.openapi.schema import answers_file
from steadynorm_server.auth.tokens import Role
from steadynorm_server.errors import ProblemError
from steadynorm_server.export.downloads import Exports, TemporaryFileResponse, disk_problems
from steadynorm_server.export.parquet import LADDERS, Table, write
from steadynorm_server.export.snapshot import SnapshotOverrun, copy
from steadynorm_server.middleware.etag import matches
from steadynorm_server.runs.record import RunRecord

router = APIRouter(tags=["runs"])

PARQUET = "application/vnd.apache.parquet"
_FORMAT = 1  # of the tables: a change of their columns gives other ETags
_ATTEMPTS = 3


@router.get(
    "/runs/{run_id}/export",
    dependencies=[Depends(requires(Role.VIEWER))],
    response_class=Response,
    responses=answers_file(PARQUET),
)
async def export_run(
    run_id: str,
    request: Request,
    repository: RepositoryOf,
    table: Annotated[Table, Query(description="steps: the step scalars; parameters: a row for each")] = "steps",
    if_none_match: Annotated[str | None, Header(description="The ETag of a file that you have")] = None,
) -> Response:
    """A run's history as a Parquet file, each step once, as fine as it is still known.

    The file is whole before its first byte is sent: what goes wrong is a problem, not half a file.
    """
    for _ in range(_ATTEMPTS):
        run = await repository.find(run_id)
        about = _about(run)
        etag = _etag(run, table, about)
        if if_none_match is not None and matches(if_none_match.encode(), etag.encode()):
            return Response(status_code=304, headers={"ETag": etag})
        names = [parameter.name for parameter in await repository.table(run)]
        exports: Exports = request.app.state.exports
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(exports.file())
            with disk_problems():
                made = stack.enter_context(cast("BinaryIO", tempfile.TemporaryFile()))  # noqa: SIM115 # entered here
                async with exports.making(request):
                    with tempfile.TemporaryFile() as spool:
                        try:
                            parts = await copy(repository, run, LADDERS[table], cast("BinaryIO", spool))
                        except SnapshotOverrun:
                            continue
                        await asyncio.to_thread(write, made, table, parts, names, run.applied.eps, about)
            headers = {
                "ETag": etag,
                "Content-Length": str(made.tell()),
                "Content-Disposition": f'attachment; filename="{run_id}-{table}.parquet"',
                "Cache-Control": "no-store",
            }
            within_s: float = request.app.state.settings.request_within_s
            return TemporaryFileResponse(made, stack.pop_all(), within_s, headers, PARQUET)
    raise ProblemError(
        503, f"run {run_id} writes faster than it can be copied; try again.", headers={"Retry-After": "2"}
    )


def _about(run: RunRecord) -> dict[str, object]:
    """What the file says of its run."""
    return {
        "run_id": run.run_id,
        "name": run.name,
        "state": run.state,
        "started": run.started,
        "step": run.step,
        "steps": run.progress.steps,
        "parameters": run.info.parameters,
        "framework": run.info.framework,
        "world_size": run.info.world_size,
        "tags": run.info.tags,
        "applied": {
            "revision": run.applied_revision,
            "step": run.applied_step,
            "settings": msgspec.to_builtins(run.applied),
        },
        "desired": {"revision": run.desired_revision, "settings": msgspec.to_builtins(run.desired)},
    }


def _etag(run: RunRecord, table: Table, about: dict[str, object]) -> str:
    """Names the file's content: the same run, described alike, with the same entries in its history."""
    content = msgspec.json.encode([_FORMAT, table, about, run.tails, run.trimmed])
    return f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
