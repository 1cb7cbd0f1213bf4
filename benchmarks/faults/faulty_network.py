"""A TCP proxy whose network fails as it is told, while it runs.

    async with FaultyNetwork([("127.0.0.1", 8470)]) as network:
        network.fault = "trickle"          # connect to ("127.0.0.1", network.port)

pass        connections go to the first upstream that takes them, in turns
black hole  what is sent arrives nowhere, on open connections and on new ones, and nothing is closed
reset       open connections are reset, and new ones as soon as they are made
trickle     one byte a second, in both directions
garbage     in place of what the server answers come random bytes
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Sequence
from typing import Literal, Self

__all__ = ["Fault", "FaultyNetwork"]

Fault = Literal["pass", "black hole", "reset", "trickle", "garbage"]
_LINGER_0 = struct.pack("ii", 1, 0)


class FaultyNetwork:
    """See above. seed: of the garbage. trickle_s: seconds a byte takes."""

    def __init__(self, upstreams: Sequence[tuple[str, int]], seed: int = 0, trickle_s: float = 1.0) -> None:
        self.upstreams = list(upstreams)
        self.port = 0
        self._fault: Fault = "pass"
        self._random = random.Random(seed)
        self._trickle_s = trickle_s
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._turn = 0

    @property
    def fault(self) -> Fault:
        """What the network does now."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        self._changed.set()
        self._changed = asyncio.Event()
        if fault == "reset":
            for writer in list(self._open):
                _reset(writer)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._changed.set()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await asyncio.sleep(0)  # transports that were aborted are closed in the loop's next turn

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self._open.add(writer)
        try:
            if self.fault == "reset":
                return
            if (far := await self._connect()) is None:
                return
            self._open.add(far[1])
            try:
                await asyncio.gather(self._pipe(reader, far[1], False), self._pipe(far[0], writer, True))
            finally:
                self._open.discard(far[1])
                _reset(far[1])
        except (OSError, asyncio.CancelledError):  # the latter from __aexit__ only
            pass
        finally:
            self._serving.discard(task)
            self._open.discard(writer)
            _reset(writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self.upstreams:
            self._turn += 1
            place = self.upstreams[self._turn % len(self.upstreams)]
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(*place)
        return None

    async def _pipe(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, answers: bool) -> None:
        while data := await source.read(2**16):
            await self._pass(data, target, answers)
        if target.can_write_eof() and not target.is_closing():
            target.write_eof()

    async def _pass(self, data: bytes, target: asyncio.StreamWriter, answers: bool) -> None:
        for at in range(len(data)):
            changed = self._changed
            if self.fault == "black hole":
                return  # lost for good, also when the network is well again
            if self.fault != "trickle":
                garbled = self.fault == "garbage" and answers
                target.write(self._random.randbytes(len(data) - at) if garbled else data[at:])
                await target.drain()
                return
            target.write(data[at : at + 1])
            await target.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), self._trickle_s)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with RST."""
    made = writer.get_extra_info("socket")
    if made is not None and made.fileno() >= 0:
        with contextlib.suppress(OSError):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    writer.transport.abort()
