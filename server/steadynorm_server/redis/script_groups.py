"""Sends the script calls of many requests to Redis in one round trip: what comes while one is under way is the next.

A call by itself goes at once. With a thousand agents several come during each round trip, and one that carries ten of
them costs this process, the kernel and Redis, which syncs its log once for all of them, little more than one that
carries one.
"""

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Command = tuple[bytes | str | int | float, ...]

_MOST = 64
_MOST_BYTES = 1_000_000
"""Of one round trip, which has a deadline; a command that is larger goes alone."""


class ScriptGroups:
    """send: sends commands in one round trip and returns what came of each, a reply or an error."""

    def __init__(self, send: Callable[[Sequence[Command]], Awaitable[Sequence[Any]]]) -> None:
        self._send = send
        self._waiting: deque[tuple[Command, int, asyncio.Future[Any]]] = deque()
        self._sender: asyncio.Task[None] | None = None  # its exceptions are those of the calls

    async def run(self, command: Command, size: int) -> Any:
        """The reply to `command`, of about `size` bytes. Raises redis-py's errors.

        Where Redis does not answer the round trip before, those who wait fail with it: they would wait in vain.
        """
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, size, reply))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return await reply

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                group = self._take()
                try:
                    replies = await self._send([command for command, _, _ in group])
                except Exception as error:
                    _settle([*group, *self._waiting], error)
                    self._waiting.clear()
                    continue
                for (_, _, future), reply in zip(group, replies, strict=True):
                    if future.done():  # nobody waits for it any more
                        continue
                    if isinstance(reply, Exception):
                        future.set_exception(reply)
                    else:
                        future.set_result(reply)
        finally:
            self._sender = None

    def _take(self) -> list[tuple[Command, int, asyncio.Future[Any]]]:
        group = [self._waiting.popleft()]
        left = _MOST_BYTES - group[0][1]
        while self._waiting and len(group) < _MOST and self._waiting[0][1] <= left:
            left -= self._waiting[0][1]
            group.append(self._waiting.popleft())
        return group


def _settle(waiting: Sequence[tuple[Command, int, asyncio.Future[Any]]], error: Exception) -> None:
    """All fail with it, each with a copy of its own, which grows a traceback."""
    for _, _, future in waiting:
        if not future.done():
            future.set_exception(copy.copy(error))
