"""Deadlines for slow requests: a connection that sends nothing, or a byte now and then, is closed.

Uvicorn closes a connection that is idle between two requests, but waits without limit for the rest of a request's
headers and of a body that no route reads, and accepts headers of any size. Here headers have a deadline and a limit;
unread bodies have the same deadline. A body that a route reads has its own, in `api/requests`.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 64 * 1024
"""Limit of a request's line and headers together: the names of 64 series fit, percent-encoded."""


class RequestHeaderTimeout(HttpToolsProtocol):
    """Uvicorn's protocol, which closes a connection whose next request has not arrived completely in time."""

    header_timeout_s = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._header_bytes = 0  # received since the last body, or together with its end
        self._in_body = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As uvicorn does it; the timer of the first request starts."""
        super().connection_made(transport)  # type: ignore[arg-type] # uvicorn narrows it to what a socket's is
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """As uvicorn does it, which stops its own timer whatever arrived."""
        if not self._in_body:
            self._header_bytes += len(data)
        super().data_received(data)
        if not self._in_body and self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")
        elif self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        else:
            self._start_timer()  # set once: another byte does not extend it

    def on_headers_complete(self) -> None:
        """As uvicorn does it."""
        self._in_body, self._header_bytes = True, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """As uvicorn does it."""
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn does it, whose keep-alive timer takes over."""
        self._stop_timer()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn does it."""
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.header_timeout_s, self._expire)

    def _stop_timer(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        if self._in_body:  # of a request that was answered: a second response would belong to none
            self.transport.close()
        else:
            self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        """Respond to an incomplete request, and close."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:  # else a response is being sent
            self.transport.write(b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status)
        self.transport.close()


def with_header_timeout(seconds: float) -> type[RequestHeaderTimeout]:
    """A protocol class for `uvicorn.Config(http=…)`."""
    return type("RequestHeaderTimeout", (RequestHeaderTimeout,), {"header_timeout_s": seconds})
