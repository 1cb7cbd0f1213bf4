"""ASGI middleware that keeps the timers of fragments quiet where a refresh helps nobody.

Streamlit's page asks for each live fragment again at its interval, whether there is anything new or not. Drawing one
takes tens of milliseconds in this process and as long in the browser, so that an open page of a run that had ended took
a third of a core. A page says here how to find out whether its data changed, at the price of a small read a second:

    quiet_timers.watch(st.context.headers, "run/ID", lambda: Seen(numbers that go on by themselves, all else it shows))

A timer's message then waits until the data change, and is delivered at that moment; while they go on changing, at once.
Without a change it is delivered the more rarely the longer they stand still, for words such as "last seen 3 min ago".
A fragment that stays the same while the numbers go on does not show them: its timer waits for a change of all else.
Whatever a visitor does is delivered, and for some seconds all timers after it. A page that says nothing keeps all its
timers.

Where the machine is busy, refreshes yield: a fragment rests four times as long as its last refresh took, so that one
that is due each second is drawn each second second, or fourth, until it is quick again. A page in a background tab is
refreshed for its title alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf.message import DecodeError
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from steadynorm_dashboard.components.changed_elements import UNCHANGED

CONNECTION = "X-Steadynorm-Connection"
"""The header by which a page's script knows its connection. A browser's own is removed."""


class Seen(NamedTuple):
    """Two values that differ when the data do."""

    numbers: object
    """What goes on by itself while a run trains: its step, its loss."""
    rest: object
    """All else."""


Poll = Callable[[], Seen]
"""Called in a thread. What it raises counts as a change."""

_POLL_S = 0.9
_SETTLE_S = 3.0
"""A fragment is drawn once more so long after a change: the read before may have come from a moment's cache."""
_ACTIVE_S = 10.0
"""For so long after a visitor did something, all timers are delivered: one part of a page follows another."""
_HELD_S = 1.5
"""A message carries the state of the page's widgets, so an older one is dropped: the timer sends the next."""
_LEAST_S, _MOST_S = 5.0, 30.0
"""Between two messages of a timer while nothing changes: a quarter of that time, within these bounds."""
_STEADY_S = 5.0
"""Between two messages of a fragment that does not show the numbers, while these go on."""
_LOOKS = 3
"""So many refreshes in a row without anything new, each after other numbers, and a fragment does not show them."""
_RESTS = 4
_MOST_REST_S = 4.0
"""After a refresh, its fragment rests so many times as long as it took, and at most so long."""
_END_BYTES = 4096
"""The message that ends a run is shorter."""


@dataclass(slots=True)
class _Page:
    """What a connection's page watches."""

    watched: tuple[str, Poll] | None = None
    seen: Seen | None = None
    changed_at: float = 0.0
    turned_at: float = 0.0  # when something else than the numbers changed
    active_until: float = 0.0
    hidden: bool = False


_pages: dict[str, _Page] = {}
_clock = time.monotonic


def watch(headers: Mapping[str, str], name: str, poll: Poll) -> None:
    """From now on `poll` says when the page of these headers changes. name: what is watched."""
    if (page := _pages.get(headers.get(CONNECTION, ""))) is not None:
        if page.watched is None or page.watched[0] != name:
            page.changed_at = page.turned_at = _clock()
        page.watched = (name, poll)


def stop(headers: Mapping[str, str]) -> None:
    """The page of these headers watches nothing: all of its timers are delivered."""
    if (page := _pages.get(headers.get(CONNECTION, ""))) is not None:
        page.watched = None


def touch(headers: Mapping[str, str]) -> None:
    """Something that `poll` does not see goes on: all timers are delivered for some seconds."""
    if (page := _pages.get(headers.get(CONNECTION, ""))) is not None:
        page.active_until = _clock() + _ACTIVE_S


def hide(headers: Mapping[str, str], hidden: bool) -> None:
    """Whether the page of these headers is in a background tab."""
    if (page := _pages.get(headers.get(CONNECTION, ""))) is not None:
        page.hidden = hidden


class QuietTimers:
    """Passes everything on to `app`, the messages of timers when there is something new and time for it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        name, page = secrets.token_hex(16), _Page()
        key = CONNECTION.lower().encode()
        kept = [pair for pair in scope["headers"] if pair[0].lower() != key]
        _pages[name] = page
        gate = _Gate(page, scope.get(UNCHANGED, frozenset()))
        reading = asyncio.create_task(gate.read(receive))

        async def timed(message: Message) -> None:
            await send(message)
            gate.time(message)

        try:
            await self._app({**scope, "headers": [*kept, (key, name.encode())]}, gate.messages.get, timed)
        finally:
            del _pages[name]
            await gate.close(reading)


@dataclass(slots=True)
class _Gate:
    """The messages of one connection."""

    page: _Page
    unchanged: Collection[str]  # fragments whose last refresh brought nothing new; others write it
    messages: asyncio.Queue[Message] = field(default_factory=lambda: asyncio.Queue(8))
    delivered: dict[str, float] = field(default_factory=dict)  # by fragment: when a message of its timer was
    held: dict[str, tuple[float, Message]] = field(default_factory=dict)  # by fragment, with the time of its arrival
    rests: dict[str, float] = field(default_factory=dict)  # by fragment: until when
    after_numbers: set[str] = field(default_factory=set)  # fragments delivered after the numbers had changed
    same: dict[str, int] = field(default_factory=dict)  # by fragment: refreshes after other numbers, all of them alike
    polled_at: float = 0.0
    polling: asyncio.Task[None] | None = None

    async def read(self, receive: Receive) -> None:
        """Until the connection is closed."""
        while True:
            try:
                message = await receive()
            except Exception:
                await self.messages.put({"type": "websocket.disconnect", "code": 1011})  # else the app waits for ever
                raise
            fragment = timer_of(message)
            if fragment is None:
                self.held.clear()  # an older state of the page
                self.rests.clear()  # what comes of it is seen at once
                self.page.active_until = _clock() + _ACTIVE_S
                await self.messages.put(message)
            elif self._rests(fragment):
                pass
            elif self._is_due(fragment):
                await self._deliver(fragment, message)
            else:
                self.held[fragment] = (_clock(), message)
            self._poll()
            if message["type"] == "websocket.disconnect":
                return

    async def close(self, reading: asyncio.Task[None]) -> None:
        for task in (reading, self.polling):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def time(self, message: Message) -> None:
        """A message to the browser: where it ends a refresh, that took the time since its timer's was delivered."""
        now = _clock()
        for fragment in _ended(message):
            if (since := self.delivered.get(fragment)) is not None:
                self.rests[fragment] = now + min(_RESTS * (now - since), _MOST_REST_S)
            if fragment not in self.unchanged:
                self.same[fragment] = 0
            elif fragment in self.after_numbers:
                self.same[fragment] = self.same.get(fragment, 0) + 1

    def _rests(self, fragment: str) -> bool:
        now = _clock()
        if self.page.hidden:
            return now - self.delivered.get(fragment, float("-inf")) < _MOST_S
        return now < self.rests.get(fragment, 0.0)

    def _is_due(self, fragment: str) -> bool:
        page, now = self.page, _clock()
        if page.watched is None or now < page.active_until:
            return True
        last, pause = self.delivered.get(fragment, 0.0), (now - page.changed_at) / 4
        if self._is_steady(fragment):
            return last < page.turned_at + _SETTLE_S or now - last >= min(max(pause, _STEADY_S), _MOST_S)
        return last < page.changed_at + _SETTLE_S or now - last >= min(max(pause, _LEAST_S), _MOST_S)

    def _is_steady(self, fragment: str) -> bool:
        """Whether it stays the same while the numbers go on."""
        return self.same.get(fragment, 0) >= _LOOKS

    async def _deliver(self, fragment: str, message: Message) -> None:
        self.held.pop(fragment, None)
        if self.page.changed_at >= self.delivered.get(fragment, 0.0):
            self.after_numbers.add(fragment)
        else:
            self.after_numbers.discard(fragment)
        self.delivered[fragment] = _clock()
        await self.messages.put(message)

    def _poll(self) -> None:
        idle = self.polling is None or self.polling.done()
        if self.page.watched is not None and idle and _clock() - self.polled_at >= _POLL_S:
            self.polled_at = _clock()
            self.polling = asyncio.create_task(self._look(*self.page.watched))

    async def _look(self, name: str, poll: Poll) -> None:
        try:
            numbers, rest = await asyncio.to_thread(poll)
            seen = Seen(numbers, (name, rest))
        except Exception:  # the fragments meet the same error, and say so
            seen = Seen(None, object())
        before, self.page.seen = self.page.seen, seen
        if seen == before:
            return
        self.page.changed_at = _clock()
        turned = before is None or seen.rest != before.rest
        if turned:
            self.page.turned_at = self.page.changed_at
        for fragment, (since, message) in list(self.held.items()):
            if (turned or not self._is_steady(fragment)) and fragment in self.held:
                if _clock() - since < _HELD_S:
                    await self._deliver(fragment, message)
                else:
                    del self.held[fragment]


def _ended(message: Message) -> Sequence[str]:
    """The fragments whose run this message ends."""
    data = message.get("bytes") or b""
    if message["type"] != "websocket.send" or len(data) > _END_BYTES:
        return ()
    try:
        sent = ForwardMsg.FromString(data)
    except DecodeError:
        return ()
    return tuple(sent.metadata.run.fragment_ids) if sent.WhichOneof("type") == "script_finished" else ()


def timer_of(message: Message) -> str | None:
    """The fragment whose timer sent this message; None: it is none of a timer's."""
    if message["type"] != "websocket.receive" or not message.get("bytes"):
        return None
    try:
        asked = BackMsg.FromString(message["bytes"]).rerun_script
    except DecodeError:
        return None  # Streamlit refuses it
    return asked.fragment_id if asked.is_auto_rerun and asked.fragment_id else None
