"""Exports under way in one process: few are made at a time, few files wait to be read, and none for ever."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import BinaryIO

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from steadynorm_server.errors import ProblemError

__all__ = ["Exports", "TemporaryFileResponse", "disk_problems"]

_CHUNK_BYTES = 256 * 1024
_RETRY_AFTER_S = 10


class Exports:
    """making: files that are made at a time. files: those that are there, until they were sent.

    waiting: who may wait for one of them; further ones are told to come again.
    """

    def __init__(self, making: int = 2, files: int = 8, waiting: int = 8) -> None:
        self._making = asyncio.Semaphore(making)
        self._files = asyncio.Semaphore(files)
        self._limit = files + waiting
        self._here = 0

    @contextlib.asynccontextmanager
    async def file(self) -> AsyncIterator[None]:
        """The block has a file, from its making until it was sent. Raises a 503 problem where too many wait."""
        if self._here >= self._limit:
            raise ProblemError(
                503,
                f"{self._here} exports are under way or wait here already; try again.",
                title="Too many exports",
                headers={"Retry-After": str(_RETRY_AFTER_S)},
            )
        self._here += 1
        try:
            async with self._files:
                yield
        finally:
            self._here -= 1

    @contextlib.asynccontextmanager
    async def making(self, request: Request) -> AsyncIterator[None]:
        """The block makes a file. Raises ClientDisconnect where nobody is there for it any more."""
        async with self._making:
            if await request.is_disconnected():
                raise ClientDisconnect
            yield


class TemporaryFileResponse(Response):
    """Sends a file, then closes `held`. Who takes nothing for `within_s` is left alone: the connection is closed."""

    def __init__(
        self, file: BinaryIO, held: contextlib.AsyncExitStack, within_s: float, headers: Mapping[str, str], kind: str
    ) -> None:
        super().__init__(None, headers=headers, media_type=kind)
        self._file = file
        self._held = held
        self._within_s = within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        async with self._held:
            self._file.seek(0)
            with contextlib.suppress(TimeoutError):  # an answer that is not completed closes the connection
                async with asyncio.timeout(self._within_s):
                    await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                while chunk := await asyncio.to_thread(self._file.read, _CHUNK_BYTES):
                    async with asyncio.timeout(self._within_s):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})


@contextlib.contextmanager
def disk_problems() -> Iterator[None]:
    """A disk that is full or takes no files is a 503 problem that names the folder."""
    try:
        yield
    except OSError as error:
        raise ProblemError(
            503,
            f"the export cannot be written to {tempfile.gettempdir()} on the server ({error.strerror or error}). "
            "Make room there, or start the server with TMPDIR set to a folder that has some.",
            title="No room for the export",
            headers={"Retry-After": "60"},
        ) from error
