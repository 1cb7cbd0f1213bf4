"""Connections that another thread can end. urllib3 closes idle ones only, and a read that is under way outlives it."""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

__all__ = ["Connections"]


class Connections:
    """The open connections of one urllib3 pool."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._shut = False

    def shut(self) -> None:
        """End every request under way, with an error in its own thread. New connections are refused from now on."""
        with self._lock:
            self._shut = True
            open_now = list(self._open)
        for connection in open_now:
            _shutdown(connection)

    def pool_classes(self) -> dict[str, Any]:
        """For `PoolManager.pool_classes_by_scheme`: urllib3's own pools, with connections that are known here."""
        connections = self

        class Connection(HTTPConnection):
            def connect(self) -> None:
                connections._refuse_if_shut()
                super().connect()
                connections._add(self)

        class SecureConnection(HTTPSConnection):
            def connect(self) -> None:
                connections._refuse_if_shut()
                super().connect()
                connections._add(self)

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = SecureConnection

        return {"http": Pool, "https": SecurePool}

    def _refuse_if_shut(self) -> None:
        if self._shut:
            raise ConnectionAbortedError("the agent is closing")

    def _add(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._open.add(connection)
        if self._shut:  # it was, while this connection was being made
            _shutdown(connection)


def _shutdown(connection: HTTPConnection) -> None:
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):  # the other side was faster
            sock.shutdown(socket.SHUT_RDWR)
