"""Changes that Redis was asked for and whose answer was lost: looked for until it is known whether they were made.

An operator was told that the outcome is unknown. The audit stream is not to lack what was done all the same.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError, ResponseError

Line = Callable[..., None]
"""Writes a line of the audit stream; takes more of its fields by name."""
Look = Callable[[], Awaitable[Sequence[Line]]]
"""Asks Redis whether a change is there. Returns its lines; none: it is not there, or not yet."""

_FOR_S = 600.0
"""A command that left this machine can reach Redis minutes later, when a network is whole again."""
_FIRST_S, _LONGEST_S = 0.25, 2.0  # between two looks
_MOST = 1000
_MOST_ERRORS = 5  # of one round of looks: each may take as long as Redis is waited for


@dataclass(frozen=True, slots=True)
class _Sent:
    key: str
    look: Look
    lines: Sequence[Line]
    until: float
    refused: bool
    """Its last answer: what was asked before, and lost, may have been made."""


class Unanswered:
    """One process's changes without an answer. clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sent: list[_Sent] = []
        self._more = asyncio.Event()

    @contextlib.contextmanager
    def following(self, key: str, look: Look, lines: Sequence[Line]) -> Iterator[None]:
        """Around a call of Redis that makes a change: follow it up where no answer comes.

        key: of this change. lines: those of the change.
        """
        try:
            yield
        except (RedisError, asyncio.CancelledError) as error:
            if len(self._sent) >= _MOST:  # Redis has been away for long, and operators insisted
                _write(self._sent.pop(0))
            self._sent.append(_Sent(key, look, lines, self._clock() + _FOR_S, isinstance(error, ResponseError)))
            self._more.set()
            raise

    def forget(self, key: str) -> None:
        """A later call found or made this change, and its lines are written."""
        self._sent = [sent for sent in self._sent if sent.key != key]

    async def settle(self) -> None:
        """Look once for each of them. Raises the first error of a look that failed, after it has tried further ones."""
        errors: list[Exception] = []
        for sent in list(self._sent):
            try:
                found = await sent.look()
            except Exception as error:
                errors.append(error)
                if sent in self._sent:  # behind the others, which may be in a part of a cluster that answers
                    self._sent.remove(sent)
                    self._sent.append(sent)
                if len(errors) == _MOST_ERRORS:
                    break
                continue
            if sent not in self._sent:
                continue
            if found:
                self.forget(sent.key)  # with what was asked for once more, and not answered either
            elif self._clock() >= sent.until:
                self._sent.remove(sent)
            for line in found:
                line()
        if errors:
            raise errors[0]

    async def settle_repeatedly(self) -> None:
        """Look for them until cancelled."""
        pause_s = _FIRST_S
        while True:
            if not self._sent:
                self._more.clear()
                await self._more.wait()
                pause_s = _FIRST_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_S)
            with contextlib.suppress(RedisError):
                await self.settle()

    async def close(self) -> None:
        """Look a last time, and write the lines of all whose outcome stays unknown, with that outcome."""
        with contextlib.suppress(Exception):  # whatever kept from looking, the rest is said
            await self.settle()
        for sent in self._sent:
            _write(sent)
        self._sent.clear()


def _write(sent: _Sent) -> None:
    for line in () if sent.refused else sent.lines:
        line(outcome="unknown")
