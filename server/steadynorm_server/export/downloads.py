"""Limits on concurrent exports of one process, and the response that sends a temporary file."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import BinaryIO

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from steadynorm_server.errors import ProblemError

_CHUNK_BYTES = 256 * 1024
_RETRY_AFTER_S = 10


class ExportLimits:
    """generating: files generated at a time. files: files that exist, until they were sent.

    waiting: requests that may wait for one; further ones get a 503.
    """

    def __init__(self, generating: int = 2, files: int = 8, waiting: int = 8) -> None:
        self._generating = asyncio.Semaphore(generating)
        self._files = asyncio.Semaphore(files)
        self._limit = files + waiting
        self._active = 0

    @contextlib.asynccontextmanager
    async def file(self) -> AsyncIterator[None]:
        """The block owns a file until it was sent. Raises a 503 problem where too many requests wait."""
        if self._active >= self._limit:
            raise ProblemError(
                503,
                f"{self._active} exports are active or waiting; try again.",
                title="Too many exports",
                headers={"Retry-After": str(_RETRY_AFTER_S)},
            )
        self._active += 1
        try:
            async with self._files:
                yield
        finally:
            self._active -= 1

    @contextlib.asynccontextmanager
    async def generating(self, request: Request) -> AsyncIterator[None]:
        """The block generates a file. Raises ClientDisconnect where the client has disconnected."""
        async with self._generating:
            if await request.is_disconnected():
                raise ClientDisconnect
            yield


class TemporaryFileResponse(Response):
    """Sends a file, then closes `resources`. A client that reads nothing for `within_s` is disconnected."""

    def __init__(
        self,
        file: BinaryIO,
        resources: contextlib.AsyncExitStack,
        within_s: float,
        headers: Mapping[str, str],
        kind: str,
    ) -> None:
        super().__init__(None, headers=headers, media_type=kind)
        self._file = file
        self._resources = resources
        self._within_s = within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file (ASGI)."""
        async with self._resources:
            self._file.seek(0)
            with contextlib.suppress(TimeoutError):  # an incomplete response closes the connection
                async with asyncio.timeout(self._within_s):
                    await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                while chunk := await asyncio.to_thread(self._file.read, _CHUNK_BYTES):
                    async with asyncio.timeout(self._within_s):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})


@contextlib.contextmanager
def disk_problems() -> Iterator[None]:
    """An error of the file system becomes a 503 problem that names the folder."""
    try:
        yield
    except OSError as error:
        folder = os.environ.get("TMPDIR") or "/tmp"  # gettempdir() raises where there is none
        raise ProblemError(
            503,
            f"the export cannot be written to {folder} on the server ({error.strerror or error}). "
            "Free some space there, or start the server with TMPDIR set to another folder.",
            title="No room for the export",
            headers={"Retry-After": "60"},
        ) from error
