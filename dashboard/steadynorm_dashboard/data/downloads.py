"""Downloads of a run's history: links with a one-time ticket instead of a token.

The page issues a ticket for the visitor's own client, and `download` redeems it: it reads the file from the server with
the visitor's permissions into a temporary file, so that no history has to fit into this process's memory.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import BinaryIO, Literal, cast

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from steadynorm_contract.client import Client, ClientError

PATH = "/history/{ticket}"
"""The route of `download` in the dashboard's server."""

Table = Literal["steps", "parameters", "scalars"]
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Ticket:
    """A table of a run, requested by the holder of the client's token."""

    client: Client
    run_id: str
    table: Table


class Tickets:
    """Tickets that were issued and not redeemed. Each is valid once and for `valid_s`; at most `limit` are stored."""

    def __init__(self, valid_s: float = 60.0, limit: int = 256, clock: Callable[[], float] = time.monotonic) -> None:
        self._valid_s, self._limit, self._clock = valid_s, limit, clock
        self._tickets: OrderedDict[str, tuple[float, Ticket]] = OrderedDict()
        self._lock = threading.Lock()  # visitors' scripts run in threads

    def issue(self, ticket: Ticket) -> str:
        """The secret name under which `ticket` can be redeemed."""
        name = secrets.token_urlsafe(24)
        with self._lock:
            self._tickets[name] = (self._clock() + self._valid_s, ticket)
            while len(self._tickets) > self._limit:
                self._tickets.popitem(last=False)
        return name

    def is_valid(self, name: str, for_s: float) -> bool:
        """Whether the ticket was not redeemed and stays valid for another `for_s` seconds."""
        with self._lock:
            until, _ = self._tickets.get(name, (0.0, None))
        return self._clock() + for_s < until

    def redeem(self, name: str) -> Ticket | None:
        """The ticket of this name, once. None: unknown, expired, or redeemed before."""
        with self._lock:
            until, ticket = self._tickets.pop(name, (0.0, None))
        return ticket if self._clock() < until else None


TICKETS = Tickets()
"""The tickets of this process."""


async def download(request: Request) -> Response:
    """GET /history/{ticket}: the file, once. Errors are plain text, since a browser shows them as a page."""
    ticket = TICKETS.redeem(request.path_params["ticket"])
    if ticket is None:
        return PlainTextResponse("This link was already used or has expired. Get a new one on the run's page.\n", 410)
    file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 # closed after it was sent
    try:
        size = await asyncio.to_thread(ticket.client.export, ticket.run_id, file, ticket.table)
    except ClientError as error:
        file.close()
        status = error.problem.status if error.problem is not None else 502
        return PlainTextResponse(f"{error}\n", status)
    except BaseException:
        file.close()
        raise
    headers = {
        "Content-Length": str(size),
        "Content-Disposition": f'attachment; filename="{ticket.run_id}-{ticket.table}.parquet"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(_chunks(file), headers=headers, media_type="application/vnd.apache.parquet")


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        file.seek(0)
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk
