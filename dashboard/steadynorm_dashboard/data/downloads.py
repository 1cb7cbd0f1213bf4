"""A run's history as a file for the browser: a ticket a click, good once, for a link that holds no token.

The page makes a ticket with the visitor's own client; `serve` redeems it. What it answers with was read from the server
with the visitor's rights and lies in a temporary file, so that no history has to fit into this process's memory.
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

__all__ = ["PATH", "TICKETS", "Ticket", "Tickets", "redeem"]

PATH = "/history/{ticket}"
"""Of the dashboard, for `serve`."""

Table = Literal["steps", "parameters"]
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Ticket:
    """What is asked for, by whom."""

    client: Client
    run_id: str
    table: Table


class Tickets:
    """Tickets that were made and not used. Each is good once, within `good_s`; at most `limit` are held."""

    def __init__(self, good_s: float = 60.0, limit: int = 256, clock: Callable[[], float] = time.monotonic) -> None:
        self._good_s, self._limit, self._clock = good_s, limit, clock
        self._held: OrderedDict[str, tuple[float, Ticket]] = OrderedDict()
        self._lock = threading.Lock()  # visitors' scripts run in threads

    def make(self, ticket: Ticket) -> str:
        """The name under which `ticket` can be used: who knows it may."""
        name = secrets.token_urlsafe(24)
        with self._lock:
            self._held[name] = (self._clock() + self._good_s, ticket)
            while len(self._held) > self._limit:
                self._held.popitem(last=False)
        return name

    def good(self, name: str, for_s: float) -> bool:
        """Whether it can be used now and so much later, if nobody takes it meanwhile."""
        with self._lock:
            until, _ = self._held.get(name, (0.0, None))
        return self._clock() + for_s < until

    def take(self, name: str) -> Ticket | None:
        """What was made under this name; None: nothing, or too long ago, or it was taken."""
        with self._lock:
            until, ticket = self._held.pop(name, (0.0, None))
        return ticket if self._clock() < until else None


TICKETS = Tickets()
"""Of this process."""


async def redeem(request: Request) -> Response:
    """GET /history/{ticket}: the file, once. A problem is told as text: a browser opens it in a page of its own."""
    ticket = TICKETS.take(request.path_params["ticket"])
    if ticket is None:
        return PlainTextResponse("This link was used or is too old. Ask for the file again on the run's page.\n", 410)
    file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 # closed when it was sent
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
    return StreamingResponse(_sent(file), headers=headers, media_type="application/vnd.apache.parquet")


async def _sent(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        file.seek(0)
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk
