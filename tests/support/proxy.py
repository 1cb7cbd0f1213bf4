"""A TCP proxy in front of a server, which loses requests or answers as networks and hung servers do."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Literal, Self
from urllib.parse import urlsplit

Fate = Literal["pass", "hold", "cut", "bad gateway", "lose"]
WRITES = (b"PATCH ", b"POST ", b"PUT ", b"DELETE ")


class Proxy:
    """Passes connections on to `server`. What happens to requests is set at any time.

    writes: `hold`: they reach the server, and their answers never arrive; `cut`: the connection is closed in place of
    an answer; `bad gateway`: a 502 takes the answer's place; `lose`: they do not reach the server either.
    upstream: where new connections go; open ones stay where they are.
    reads: the same for GET. after_writes: what `reads` becomes with the next write. spared: so many writes pass before.
    """

    def __init__(self, server: str) -> None:
        at = urlsplit(server)
        self.upstream = (at.hostname or "", at.port or 0)
        self.writes: Fate = "pass"
        self.reads: Fate = "pass"
        self.after_writes: Fate = "pass"
        self.spared = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.server = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def fate_of_a_write(self) -> Fate:
        """What happens to the write that arrives now."""
        if self.spared:
            self.spared -= 1
            return "pass"
        self.reads = self.after_writes
        return self.writes

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self.upstream)
                self._open += [near, far]
                _Connection(self, near, far)


class _Connection:
    def __init__(self, proxy: Proxy, near: socket.socket, far: socket.socket) -> None:
        self._proxy, self._near, self._far = proxy, near, far
        self._fate: Fate = "pass"
        for target in (self._requests, self._answers):
            threading.Thread(target=target, daemon=True).start()

    def _requests(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._near.recv(2**16):
                if data.startswith(WRITES):
                    self._fate = self._proxy.fate_of_a_write()
                elif data.startswith(b"GET "):
                    self._fate = self._proxy.reads
                if self._fate != "lose":
                    self._far.sendall(data)
            self._far.shutdown(socket.SHUT_WR)

    def _answers(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._far.recv(2**16):
                if self._fate == "pass":
                    self._near.sendall(data)
                elif self._fate == "bad gateway":
                    self._near.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                if self._fate in ("cut", "bad gateway"):
                    break
            if self._fate != "hold":
                self._near.shutdown(socket.SHUT_RDWR)
