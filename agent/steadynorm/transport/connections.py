"""urllib3's connections, with what it does not have: an end of a whole exchange, and one that another thread makes.

urllib3's time-outs are those of one read, so a server that sends a byte now and then would hold its client for ever.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import math
import socket
import threading
import weakref
from time import monotonic
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

_SEND_BYTES = 64 * 1024


class Connections:
    """The open connections of one urllib3 pool, which one thread uses.

    Attributes:
        until: Monotonic seconds at which the present exchange fails with TimeoutError, whatever it does then.
    """

    def __init__(self) -> None:
        self.until = math.inf
        self._open: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._is_shut_down = False

    def shut_down(self) -> None:
        """End every request in progress, with an error in its own thread, and refuse new connections."""
        with self._lock:
            self._is_shut_down = True
            open_now = list(self._open)
        for connection in open_now:
            _shutdown(connection)

    def pool_classes(self) -> dict[str, Any]:
        """For `PoolManager.pool_classes_by_scheme`: urllib3's own pools, with connections that are tracked here."""
        connections = self

        class Response(http.client.HTTPResponse):
            def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
                super().__init__(sock, *args, **kwargs)
                self.fp = io.BufferedReader(_Reads(self.fp.detach(), sock, connections))

        class Connection(HTTPConnection):
            response_class = Response

            def connect(self) -> None:
                connections._check_open()
                super().connect()
                connections._add(self)

            def send(self, data: Any) -> None:
                for at in range(0, len(data), _SEND_BYTES):
                    if self.sock is not None:
                        self.sock.settimeout(connections.within(self.timeout))
                    super().send(data[at : at + _SEND_BYTES])

        class SecureConnection(Connection, HTTPSConnection):  # in this order: `super()` is then urllib3's with TLS
            pass

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = SecureConnection

        return {"http": Pool, "https": SecurePool}

    def within(self, timeout_s: float | None) -> float:
        """The time-out of one operation, in seconds, within what is left of the exchange. Raises TimeoutError."""
        left_s = self.until - monotonic()
        if left_s <= 0:
            raise TimeoutError("the exchange did not end in time")
        return left_s if timeout_s is None else min(timeout_s, left_s)

    def _check_open(self) -> None:
        if self._is_shut_down:
            raise ConnectionAbortedError("the agent is closing")

    def _add(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._open.add(connection)
        if self._is_shut_down:  # while this connection was being made
            _shutdown(connection)


class _Reads(io.RawIOBase):
    """What a response is read from."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, connections: Connections) -> None:
        self._raw, self._sock, self._connections = raw, sock, connections
        self._timeout_s = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int | None:
        self._sock.settimeout(self._connections.within(self._timeout_s))
        return self._raw.readinto(into)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _shutdown(connection: HTTPConnection) -> None:
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):  # the other side has closed it
            # Not the TLS socket's own: it drops the encryption first, and the other thread would send plain text.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
