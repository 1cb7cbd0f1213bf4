"""ASGI middleware that sends of a part's refresh only the elements that changed.

Streamlit's page draws itself anew with every message that it gets, and a refresh of a live fragment is a message for
each of its elements, changed or not, and four around them. An open page of a live run got fifty a second, of which six
had something new, and that took three quarters of its browser's time.

A refresh that a timer asked for is held until it is complete, and compared with what the browser has. Where it has
the same elements at the same places, only those that differ are sent, without the messages that begin and end a run:
these are there to take away elements that are gone. Everything else passes as it is, at once: whole pages, what
follows what a visitor did, and a refresh with more or fewer elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

_Path = tuple[int, ...]
_FINISHED = ForwardMsg.ScriptFinishedStatus.FINISHED_FRAGMENT_RUN_SUCCESSFULLY
_FOLLOWED = ForwardMsg.ScriptFinishedStatus.FINISHED_EARLY_FOR_RERUN
"""Another run was asked for meanwhile: of the whole page, which ends this one, or of a fragment, which waits."""
_ELEMENTS = ("new_element", "add_block")

UNCHANGED = "steadynorm.unchanged"
"""The scope's entry with the fragments whose last refresh brought nothing new: a set, for what is within."""


class ChangedElements:
    """Passes everything on to `app`, and to the browser what is new to it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        page = _Page()

        async def noting() -> Message:
            message = await receive()
            page.note(message)
            return message

        async def changed(message: Message) -> None:
            for each in page.news(message):
                await send(each)

        await self._app({**scope, UNCHANGED: page.unchanged}, noting, changed)


@dataclass(slots=True)
class _Refresh:
    """A refresh that is held: its fragments, and its messages so far."""

    fragments: frozenset[str]
    messages: list[tuple[Message, ForwardMsg]] = field(default_factory=list)


@dataclass(slots=True)
class _Page:
    """What the browser of one connection has."""

    elements: dict[_Path, str] = field(default_factory=dict)  # by their places: the hashes of their messages
    asked: set[str] = field(default_factory=set)  # fragments that a visitor's doing asked for
    unchanged: set[str] = field(default_factory=set)  # fragments whose last refresh brought nothing new
    refresh: _Refresh | None = None
    is_running: bool = False  # what the browser was told last

    def note(self, message: Message) -> None:
        """What the browser sends."""
        if message["type"] != "websocket.receive" or not message.get("bytes"):
            return
        try:
            asked = BackMsg.FromString(message["bytes"]).rerun_script
        except DecodeError:
            return  # Streamlit refuses it
        if not asked.is_auto_rerun and asked.fragment_id:
            self.asked.add(asked.fragment_id)

    def news(self, message: Message) -> Iterator[Message]:
        """Of a message to the browser, and of those held before it, what is to be sent now."""
        if message["type"] != "websocket.send" or not message.get("bytes"):
            yield message
            return
        try:
            sent = ForwardMsg.FromString(message["bytes"])
        except DecodeError:
            yield message
            return
        kind = sent.WhichOneof("type")
        if kind == "new_session":
            yield from self._all()
            self._begin(frozenset(sent.metadata.run.fragment_ids))
        if self.refresh is None:
            if self._is_news(sent):
                yield message
            return
        self.refresh.messages.append((message, sent))
        if kind == "script_finished":
            is_whole = sent.script_finished in (_FINISHED, _FOLLOWED)
            if is_whole and (changed := self._changed(self.refresh)) is not None:
                if not changed:
                    self.unchanged |= self.refresh.fragments
                self.refresh = None
                yield from changed
            else:
                yield from self._all()

    def _begin(self, fragments: frozenset[str]) -> None:
        if not fragments:
            self.elements.clear()
        elif fragments.isdisjoint(self.asked):
            self.refresh = _Refresh(fragments)
        self.asked -= fragments
        self.unchanged -= fragments

    def _all(self) -> Iterator[Message]:
        """Everything that is held."""
        held, self.refresh = self.refresh, None
        if held is None:
            return
        if held.messages[-1][1].script_finished == _FINISHED:  # after which the browser has no others there
            places = [_place(sent) for _, sent in held.messages if _is_element(sent)]
            for place in self._beneath(_roots(places)):
                del self.elements[place]
        for message, sent in held.messages:
            if self._is_news(sent):
                yield message

    def _is_news(self, sent: ForwardMsg) -> bool:
        """Notes what is being sent. False: the browser was told so before."""
        if sent.WhichOneof("type") == "session_status_changed":
            if self.is_running == sent.session_status_changed.script_is_running:
                return False
            self.is_running = sent.session_status_changed.script_is_running
        elif _is_element(sent):
            self.elements[_place(sent)] = _hash(sent)
        return True

    def _beneath(self, roots: set[_Path]) -> list[_Path]:
        return [place for place in self.elements if any(place[: len(root)] == root for root in roots)]

    def _changed(self, refresh: _Refresh) -> list[Message] | None:
        """Those of its messages that are new to the browser; None: all must be sent, with those around them."""
        elements = {_place(sent): sent for _, sent in refresh.messages if _is_element(sent)}
        deltas = [sent for _, sent in refresh.messages if sent.WhichOneof("type") in ("delta", "ref_hash")]
        if len(elements) < len(deltas) or set(elements) != set(self._beneath(_roots(list(elements)))):
            return None
        found: list[Message] = []
        for message, sent in refresh.messages:
            kind = sent.WhichOneof("type")
            if kind in ("new_session", "script_finished", "session_status_changed"):
                continue
            if not _is_element(sent):
                found.append(message)
                continue
            place, is_new = _place(sent), _hash(sent) != self.elements[_place(sent)]
            if is_new and sent.delta.WhichOneof("type") == "add_block":
                return None  # the browser may throw away what is in it
            if is_new or _sets_value(sent):
                self.elements[place] = _hash(sent)
                found.append(_uncached(message, sent))
        return found


def _is_element(sent: ForwardMsg) -> bool:
    kind = sent.WhichOneof("type")
    return kind == "ref_hash" or (kind == "delta" and sent.delta.WhichOneof("type") in _ELEMENTS)


def _place(sent: ForwardMsg) -> _Path:
    return tuple(sent.metadata.delta_path)


def _roots(places: list[_Path]) -> set[_Path]:
    """The places that are beneath none of the others."""
    roots: set[_Path] = set()
    for place in sorted(places, key=len):
        if not any(place[:length] in roots for length in range(1, len(place))):
            roots.add(place)
    return roots


def _hash(sent: ForwardMsg) -> str:
    """Of the element; a message of one that the browser has in its cache has only this."""
    return sent.hash or sent.ref_hash


def _sets_value(sent: ForwardMsg) -> bool:
    """Whether it sets a widget's value, which the visitor may have changed since it was set to the same one."""
    if sent.WhichOneof("type") != "delta":
        return False
    element = sent.delta.new_element
    widget = getattr(element, element.WhichOneof("type") or "", None)
    return bool(getattr(widget, "set_value", False))


def _uncached(message: Message, sent: ForwardMsg) -> Message:
    """Without a place in the browser's cache, which it empties at the end of a run."""
    if not sent.metadata.cacheable:
        return message
    sent.metadata.cacheable = False
    return {**message, "bytes": sent.SerializeToString()}
