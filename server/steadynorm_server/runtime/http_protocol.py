"""Connections that send nothing, or one byte now and then, do not stay.

Uvicorn closes a connection that is idle between two requests, but waits for ever for the rest of a request's head, and
for the rest of a body that nobody reads, and takes a head of any size. Here heads have a deadline and a limit, and
bodies that nobody reads the same deadline. The body that a route does read has one in `body`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["MAX_HEAD_BYTES", "RequestHeaderTimeout", "with_head_deadline"]

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and headers together: the names of 64 series fit, percent-encoded."""


class RequestHeaderTimeout(HttpToolsProtocol):
    """Uvicorn's protocol, which ends a connection whose next request has not come whole in time."""

    head_within_s = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0  # received of the head that is awaited, at most what came together with its last body
        self._in_body = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As uvicorn does it; the first head is awaited from now on."""
        super().connection_made(transport)  # type: ignore[arg-type] # uvicorn narrows it to what a socket's is
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """As uvicorn does it, which stops its own timer whatever came."""
        if not self._in_body:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_body and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")
        elif self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        else:
            self._await_head()  # set once: one more byte buys no time

    def on_headers_complete(self) -> None:
        """As uvicorn does it."""
        self._in_body, self._head_bytes = True, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """As uvicorn does it."""
        self._in_body = False
        super().on_message_complete()

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
        if self._in_body:  # of a request that was answered: another answer would belong to nothing
            self.transport.close()
        else:
            self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        """Answer what is no request yet, and close."""
        self._stop_waiting()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:  # else an answer is on its way
            self.transport.write(b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status)
        self.transport.close()


def with_head_deadline(seconds: float) -> type[RequestHeaderTimeout]:
    """A protocol class for `uvicorn.Config(http=…)`."""
    return type("RequestHeaderTimeout", (RequestHeaderTimeout,), {"head_within_s": seconds})
