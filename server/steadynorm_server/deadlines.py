"""Connections that send nothing, or one byte now and then, do not stay.

Uvicorn closes a connection that is idle between two requests, but waits for ever for the rest of a request's head, and
for the rest of a body that nobody reads. Here both have a deadline. The body that a route does read has one in `body`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["MAX_HEAD_BYTES", "HeadDeadline", "with_head_deadline"]

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and headers together: the names of 64 series fit, percent-encoded."""


class HeadDeadline(H11Protocol):
    """Uvicorn's protocol, which ends a connection whose next request has not come whole in time."""

    head_within_s = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As uvicorn does it; the first head is awaited from now on."""
        super().connection_made(transport)  # type: ignore[arg-type] # uvicorn narrows it to what a socket's is
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """As uvicorn does it, which stops its own timer whatever came."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        else:
            self._await_head()  # set once: one more byte buys no time

    def on_response_complete(self) -> None:
        """As uvicorn does it, whose keep-alive timer takes over."""
        self._stop_waiting()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn does it."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.head_within_s, self._end)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE:
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.transport.close()


def with_head_deadline(seconds: float) -> type[HeadDeadline]:
    """A protocol class for `uvicorn.Config(http=…)`."""
    return type("HeadDeadline", (HeadDeadline,), {"head_within_s": seconds})
