"""Download of a run's history as Parquet."""

import asyncio
import contextlib
import hashlib
import re
import tempfile
from typing import Annotated, BinaryIO, cast

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response

from steadynorm_server.api import API
from steadynorm_server.api.dependencies import VIEWER, RepositoryOf
from steadynorm_server.api.openapi.schema import RUN, file_response
from steadynorm_server.errors import ProblemError
from steadynorm_server.export.downloads import ExportLimits, TemporaryFileResponse, disk_problems
from steadynorm_server.export.parquet import SCHEMES, Table, write
from steadynorm_server.export.snapshot import SnapshotOverrun, copy
from steadynorm_server.runs.record import RunRecord

router = APIRouter(prefix=API, tags=["runs"])

PARQUET = "application/vnd.apache.parquet"
_FORMAT = 1  # of the tables: other columns need another one, so that ETags change
_ATTEMPTS = 3


@router.get(
    "/runs/{run_id}/export", dependencies=VIEWER, response_class=Response, responses=file_response(PARQUET, *RUN, 422)
)
async def export_run(
    run_id: str,
    request: Request,
    repository: RepositoryOf,
    table: Annotated[Table, Query(description="steps: the step scalars; the others: a row for each")] = "steps",
    if_none_match: Annotated[str | None, Header(description="ETag of the file that you have")] = None,
) -> Response:
    """A run's history as a Parquet file: each step once, at the finest resolution that is still stored.

    The file is complete before its first byte is sent, so an error is a problem response, not half a file.
    """
    for _ in range(_ATTEMPTS):
        run = await repository.get(run_id)
        about = _about(run)
        etag = _etag(run, table, about)
        if etag in re.findall(r'"[^"]*"', if_none_match or ""):
            return Response(status_code=304, headers={"ETag": etag})
        names = run.logged.columns if table == "scalars" else await repository.parameter_names(run)
        exports: ExportLimits = request.app.state.exports
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(exports.file())
            with disk_problems():
                made = stack.enter_context(cast("BinaryIO", tempfile.TemporaryFile()))  # noqa: SIM115 # entered here
                async with exports.generating(request):
                    with tempfile.TemporaryFile() as spool:
                        try:
                            parts = await copy(repository, run, SCHEMES[table], cast("BinaryIO", spool))
                        except SnapshotOverrun:
                            continue
                        await asyncio.to_thread(write, made, table, parts, names, run.applied.eps, about)
            headers = {
                "ETag": etag,
                "Content-Length": str(made.tell()),
                "Content-Disposition": f'attachment; filename="{run_id}-{table}.parquet"',
                "Cache-Control": "no-store",
            }
            within_s: float = request.app.state.config.request_within_s
            return TemporaryFileResponse(made, stack.pop_all(), within_s, headers, PARQUET)
    raise ProblemError(
        503, f"run {run_id} is written faster than it can be copied. Try again.", headers={"Retry-After": "2"}
    )


def _about(run: RunRecord) -> dict[str, object]:
    """The run's description in the file's metadata."""
    return {
        "run_id": run.run_id,
        "name": run.title,
        "state": run.state,
        "started": run.started,
        "step": run.step,
        "steps": run.progress.steps,
        "parameters": run.info.parameters,
        "framework": run.info.framework,
        "world_size": run.info.world_size,
        "tags": run.info.tags,
        "scalars": msgspec.to_builtins(run.logged.described),
        "applied": {
            "revision": run.applied_revision,
            "step": run.applied_step,
            "settings": msgspec.to_builtins(run.applied),
        },
        "desired": {"revision": run.desired_revision, "settings": msgspec.to_builtins(run.desired)},
    }


def _etag(run: RunRecord, table: Table, about: dict[str, object]) -> str:
    """The same for files of the same run with the same description and history."""
    content = msgspec.json.encode([_FORMAT, table, about, run.levels, run.trimmed])
    return f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
